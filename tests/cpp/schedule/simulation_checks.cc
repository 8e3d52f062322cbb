// The contract of scheduler.h, checked from outside: nothing here calls the scheduler's own
// helpers.

#include <algorithm>

#include "cpp/schedule/simulation.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {

// Rows are consistent, limits hold, decode entries come first, each kind is in order.
void Simulation::CheckEntries(const Batch& batch) const {
  int32_t num_tokens = 0;
  const BatchEntry* previous = nullptr;
  for (const BatchEntry& entry : batch.entries) {
    const Sequence& sequence = *Find(entry.sequence)->sequence;
    EXPECT_EQ(sequence.state, SequenceState::kRunning);
    EXPECT_EQ(entry.first_token, sequence.computed);
    EXPECT_GE(entry.num_tokens, 1);
    EXPECT_EQ(entry.num_tokens, sequence.in_flight);
    const int32_t end = entry.first_token + entry.num_tokens;
    EXPECT_LE(end, sequence.length());
    EXPECT_EQ(entry.wants_logits, end == sequence.length());
    EXPECT_EQ(static_cast<int32_t>(sequence.pages.size()), PagesFor(end + entry.num_drafts));
    if (previous != nullptr) {
      const bool is_decode = sequence.num_uncomputed() == 1;
      const bool previous_is_decode = previous->sequence->num_uncomputed() == 1;
      EXPECT_TRUE(previous_is_decode || !is_decode);
      EXPECT_TRUE(previous_is_decode != is_decode || Before(*previous->sequence, sequence));
    }
    previous = &entry;
    num_tokens += entry.num_tokens + entry.num_drafts;
  }
  EXPECT_EQ(batch.num_tokens, num_tokens);
  EXPECT_LE(num_tokens, config_.prefill_chunk_size);
  EXPECT_LE(static_cast<int32_t>(batch.entries.size()), config_.max_batch_size);
  EXPECT_LE(scheduler_->num_running(), max_running());
  EXPECT_EQ(scheduler_->num_running() + scheduler_->num_waiting(),
            static_cast<int32_t>(live_.size()));
}

// Only decode entries run drafts, and only in small steps in which nobody who could run does not.
void Simulation::CheckDrafts(const Batch& batch) const {
  int32_t num_drafts = 0;
  for (const BatchEntry& entry : batch.entries) {
    EXPECT_EQ(entry.num_drafts, entry.sequence->drafts_in_flight);
    EXPECT_GE(entry.num_drafts, 0);
    EXPECT_LE(static_cast<size_t>(entry.num_drafts), entry.sequence->drafts.size());
    EXPECT_TRUE(entry.num_drafts == 0 || (entry.num_tokens == 1 && entry.wants_logits));
    num_drafts += entry.num_drafts;
  }
  EXPECT_TRUE(num_drafts == 0 || batch.num_tokens <= config_.speculative_rows_max);
}

// Prompt tokens that run are scored in order, each once, all of them by the time that the prompt
// has run, and not more in a step than there are rows for.
void Simulation::CheckScores(const Batch& batch) const {
  int32_t num_scored = 0;
  for (const BatchEntry& entry : batch.entries) {
    const Sequence& sequence = *entry.sequence;
    const int32_t scored_before = Find(&sequence)->scored;
    const int32_t end = std::min(entry.first_token + entry.num_tokens, NumToScore(sequence));
    EXPECT_LE(std::min(entry.first_token, NumToScore(sequence)), scored_before);
    EXPECT_EQ(entry.num_scored, std::max(0, end - scored_before));
    EXPECT_TRUE(entry.num_scored == 0 || entry.first_scored == scored_before);
    EXPECT_TRUE(!entry.wants_logits || scored_before + entry.num_scored == NumToScore(sequence));
    num_scored += entry.num_scored;
  }
  EXPECT_LE(num_scored, config_.scored_rows_max);
}

// Only running sequences are preempted, they lose everything, and nobody after them runs.
void Simulation::CheckPreempted(const Batch& batch) const {
  for (const Sequence* sequence : batch.preempted) {
    EXPECT_TRUE(Find(sequence)->was_running);
    EXPECT_EQ(sequence->state, SequenceState::kWaiting);
    EXPECT_EQ(sequence->computed, 0);
    EXPECT_TRUE(sequence->pages.empty());
    for (const BatchEntry& entry : batch.entries) {
      EXPECT_TRUE(Before(*entry.sequence, *sequence));
    }
  }
  for (const Live& live : live_) {
    const bool lost_its_place = live.was_running && live.sequence->state != SequenceState::kRunning;
    EXPECT_EQ(lost_its_place,
              std::count(batch.preempted.begin(), batch.preempted.end(), live.sequence.get()) == 1);
  }
}

// The first in order always runs; decoding sequences go without only when no page is left.
void Simulation::CheckProgress(const Batch& batch) const {
  if (faulted_ || live_.empty()) {
    return;
  }
  EXPECT_TRUE(FindEntry(batch, live_.front().sequence.get()) != nullptr);
  for (const Live& live : live_) {
    const bool is_decoding = live.sequence->state == SequenceState::kRunning && live.was_running &&
                             live.was_lacking == 1;
    if (is_decoding && FindEntry(batch, live.sequence.get()) == nullptr) {
      EXPECT_EQ(pool_->num_free(), 0);
    }
  }
}

// Where everybody fits, nobody is preempted, and nobody waits while tokens are left, but for a
// sibling's prompt, or for rows to be scored when all are taken.
void Simulation::CheckWorkIsConserved(const Batch& batch) {
  size_t pages = live_.size();
  for (const Live& live : live_) {
    pages += PagesFor(live.sequence->length());
  }
  const bool everybody_fits = static_cast<int32_t>(live_.size()) <= max_running() &&
                              pages <= static_cast<size_t>(config_.num_pages);
  if (!everybody_fits || faulted_) {
    return;
  }
  EXPECT_TRUE(batch.preempted.empty());
  int32_t num_tokens = 0;  // drafts are no excuse
  int32_t num_scored = 0;
  for (const BatchEntry& entry : batch.entries) {
    num_tokens += entry.num_tokens;
    num_scored += entry.num_scored;
  }
  if (num_tokens == config_.prefill_chunk_size) {
    return;
  }
  for (const Live& live : live_) {
    const Sequence& sequence = *live.sequence;
    if (num_scored == config_.scored_rows_max &&
        sequence.computed + sequence.in_flight < NumToScore(sequence) &&
        sequence.computed + sequence.in_flight >= live.scored) {
      ++stats_.waits_for_scores;
      continue;
    }
    if (sequence.state == SequenceState::kRunning) {
      EXPECT_EQ(sequence.in_flight, sequence.num_uncomputed());
      continue;
    }
    bool prompt_is_pending = false;
    for (const Live& other : live_) {
      const bool waits_for_scores =
          num_scored == config_.scored_rows_max && other.scored < NumToScore(*other.sequence);
      prompt_is_pending |= other.sequence->request == sequence.request &&
                           (other.sequence->state == SequenceState::kRunning || waits_for_scores) &&
                           Before(*other.sequence, sequence) &&
                           other.sequence->computed < sequence.prompt_length() - 1;
    }
    EXPECT_TRUE(prompt_is_pending);
  }
}

// A sequence that started in this step took its prompt from a sibling that had it, and had none
// before it in order that was still computing it.
void Simulation::CheckSharing(const Batch& batch) {
  for (const Live& live : live_) {
    const Sequence& sequence = *live.sequence;
    const int32_t shared_tokens = sequence.prompt_length() - 1;
    const int32_t shared_pages = shared_tokens / config_.page_size;
    if (live.was_running || sequence.request->num_choices == 1 || shared_tokens == 0) {
      continue;
    }
    const Sequence* source = nullptr;
    bool is_pending = false;
    for (const Live& other : live_) {
      if (other.sequence->request != sequence.request || other.sequence == live.sequence ||
          other.sequence->state != SequenceState::kRunning) {
        continue;
      }
      if (other.sequence->computed < shared_tokens) {
        is_pending |= Before(*other.sequence, sequence);
      } else if (other.was_running) {
        source = other.sequence.get();
      }
    }
    if (sequence.state != SequenceState::kRunning) {
      stats_.waits_for_prompt += source == nullptr && is_pending;
      continue;
    }
    if (source == nullptr) {
      EXPECT_FALSE(is_pending);
      // Its source may have been preempted in this very step.
      EXPECT_TRUE(sequence.computed == 0 || !batch.preempted.empty());
      continue;
    }
    // Without a page to copy the rest to it computes that itself.
    EXPECT_TRUE(sequence.computed == shared_tokens ||
                (faulted_ && sequence.computed == shared_pages * config_.page_size));
    EXPECT_TRUE(std::equal(source->pages.begin(), source->pages.begin() + shared_pages,
                           sequence.pages.begin()));
    ++stats_.shared_starts;
  }
}

// The pool's counts are the owners there are: nothing leaks, nothing is used after release.
void Simulation::CheckOwners() const {
  std::vector<int32_t> owners(config_.num_pages, 0);
  for (const Live& live : live_) {
    EXPECT_TRUE(live.sequence->state == SequenceState::kRunning || live.sequence->pages.empty());
    for (PageId page : live.sequence->pages) {
      ++owners[page];
    }
  }
  for (PageId page = 0; page < config_.num_pages; ++page) {
    EXPECT_EQ(pool_->reference_count(page), owners[page]);
  }
}

const Simulation::Live* Simulation::Find(const Sequence* sequence) const {
  return const_cast<Simulation*>(this)->Find(sequence);
}

const BatchEntry* Simulation::FindEntry(const Batch& batch, const Sequence* sequence) const {
  for (const BatchEntry& entry : batch.entries) {
    if (entry.sequence == sequence) {
      return &entry;
    }
  }
  return nullptr;
}

int32_t Simulation::PagesFor(int32_t num_tokens) const {
  return (num_tokens + config_.page_size - 1) / config_.page_size;
}

// The first choice of a request that asks for it scores all of the prompt but its last token.
int32_t Simulation::NumToScore(const Sequence& sequence) const {
  const bool scores = sequence.choice == 0 && sequence.request->sampling.prompt_logprobs >= 0;
  return scores ? sequence.prompt_length() - 1 : 0;
}

int32_t Simulation::max_running() const {
  return std::min(config_.max_batch_size, config_.prefill_chunk_size);
}

bool Simulation::Before(const Sequence& a, const Sequence& b) const {
  return a.request->priority != b.request->priority ? a.request->priority < b.request->priority
                                                    : a.id < b.id;
}

}  // namespace mlc_server::testing
