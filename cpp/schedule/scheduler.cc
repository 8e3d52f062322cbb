#include "schedule/scheduler.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"

namespace mlc_server {
namespace {

// How many tokens of `sequence` may run so that no more than `rows` of them are scored.
int32_t MostTokens(const Sequence& sequence, int32_t rows) {
  const bool scores_all = sequence.num_to_score() - sequence.scored <= rows;
  return scores_all ? sequence.num_uncomputed() : sequence.scored + rows - sequence.computed;
}

// How many of the next `num_tokens` tokens of `sequence` are scored.
int32_t NumScored(const Sequence& sequence, int32_t num_tokens) {
  const int32_t end = std::min(sequence.computed + num_tokens, sequence.num_to_score());
  return std::max(0, end - sequence.scored);
}

}  // namespace

bool Scheduler::Before(const Sequence* a, const Sequence* b) {
  if (a->request->priority != b->request->priority) {
    return a->request->priority < b->request->priority;
  }
  return a->id < b->id;
}

Scheduler::Scheduler(const EngineConfig& config, PagePool* pool)
    : config_(config),
      pool_(pool),
      max_running_(std::min(config.max_batch_size, config.prefill_chunk_size)) {
  MLC_CHECK(max_running_ >= 1 && config.page_size >= 1)
      << max_running_ << " sequences, page size " << config.page_size;
  MLC_CHECK(pool->num_pages() == config.num_pages)
      << "a pool of " << pool->num_pages() << " pages, configured are " << config.num_pages;
  running_.reserve(max_running_);
  chunks_.reserve(max_running_);
  releases_.assign(pool->num_pages(), 0);
}

void Scheduler::Add(Sequence* sequence) {
  MLC_CHECK(sequence->state == SequenceState::kWaiting) << "sequence " << sequence->id;
  MLC_CHECK(sequence->computed == 0 && sequence->in_flight == 0 && sequence->pages.empty())
      << "sequence " << sequence->id << " is not new";
  MLC_CHECK(sequence->length() >= 1 && sequence->prompt_length() >= 1)
      << "sequence " << sequence->id << " has no tokens";
  const auto place = std::lower_bound(waiting_.begin(), waiting_.end(), sequence, Before);
  MLC_CHECK(place == waiting_.end() || (*place)->id != sequence->id)
      << "sequence " << sequence->id << " was added twice";
  waiting_.insert(place, sequence);
}

void Scheduler::Remove(Sequence* sequence) {
  if (sequence->state == SequenceState::kWaiting) {
    const auto place = std::lower_bound(waiting_.begin(), waiting_.end(), sequence, Before);
    MLC_CHECK(place != waiting_.end() && *place == sequence) << "sequence " << sequence->id;
    waiting_.erase(place);
  } else if (sequence->state == SequenceState::kRunning) {
    const auto place = std::lower_bound(running_.begin(), running_.end(), sequence, Before);
    MLC_CHECK(place != running_.end() && *place == sequence) << "sequence " << sequence->id;
    running_.erase(place);
    // What is in flight may be a copy that is never made.
    Sequence* heir = sequence->in_flight == 0 ? FindHeir(*sequence) : nullptr;
    num_in_flight_ -= sequence->in_flight > 0 ? 1 : 0;
    sequence->in_flight = 0;
    sequence->drafts_in_flight = 0;
    if (heir != nullptr) {
      Inherit(heir, sequence);
    }
    ReleasePages(sequence);
  }
  sequence->state = SequenceState::kFinished;
}

Batch Scheduler::Schedule() {
  MLC_CHECK(num_in_flight_ == 0) << num_in_flight_ << " sequences of the last batch are in flight";
  Plan plan;
  plan.tokens_left = config_.prefill_chunk_size;
  plan.scores_left = config_.scored_rows_max;
  plan.batch.entries.reserve(std::min<size_t>(max_running_, running_.size() + waiting_.size()));
  for (const Sequence* sequence : running_) {
    MLC_CHECK(sequence->drafts_in_flight == 0) << "sequence " << sequence->id << " has "
                                               << sequence->drafts_in_flight << " drafts to settle";
    plan.decodes_ahead += sequence->decodes() ? 1 : 0;
  }
  while (true) {
    const bool has_running = plan.next_running < running_.size();
    const bool has_waiting = plan.admitting && plan.next_waiting < waiting_.size();
    if (has_waiting &&
        (!has_running || Before(waiting_[plan.next_waiting], running_[plan.next_running]))) {
      VisitWaiting(&plan);
    } else if (has_running) {
      VisitRunning(&plan);
    } else {
      break;
    }
  }
  AddDrafts(&plan.batch);
  plan.batch.entries.insert(plan.batch.entries.end(), chunks_.begin(), chunks_.end());
  chunks_.clear();
  return std::move(plan.batch);
}

void Scheduler::Commit(const Batch& batch) {
  int32_t num_tokens = 0;
  // Not the batch's own pointers: sequences removed since Schedule() may be gone.
  for (Sequence* sequence : running_) {
    num_tokens += sequence->in_flight + sequence->drafts_in_flight;
    sequence->computed += sequence->in_flight;
    sequence->in_flight = 0;
    sequence->scored =
        std::max(sequence->scored, std::min(sequence->computed, sequence->num_to_score()));
  }
  num_in_flight_ = 0;
  MLC_CHECK(num_tokens <= batch.num_tokens)
      << num_tokens << " tokens in flight, " << batch.num_tokens << " in the batch";
}

void Scheduler::KeepDrafts(Sequence* sequence, int32_t count) {
  MLC_CHECK(sequence->state == SequenceState::kRunning && sequence->in_flight == 0 && count >= 0 &&
            count <= sequence->drafts_in_flight && sequence->computed + count < sequence->length())
      << "sequence " << sequence->id << " keeps " << count << " of " << sequence->drafts_in_flight
      << " drafts";
  sequence->computed += count;
  sequence->drafts_in_flight = 0;
  const auto num_pages = static_cast<size_t>(PagesFor(sequence->computed));
  while (sequence->pages.size() > num_pages) {
    pool_->Release(sequence->pages.back());
    sequence->pages.pop_back();
  }
}

void Scheduler::RunAgain(Sequence* sequence) {
  MLC_CHECK(sequence->num_uncomputed() == 0)
      << "sequence " << sequence->id << " has " << sequence->length() << " tokens, "
      << sequence->computed << " computed";
  --sequence->computed;
  KeepDrafts(sequence, 0);
}

// Gives decode entries, all that `batch` holds so far, rows for their drafts.
void Scheduler::AddDrafts(Batch* batch) {
  const int32_t rows_max = std::min(config_.prefill_chunk_size, config_.speculative_rows_max);
  for (BatchEntry& entry : batch->entries) {
    Sequence* sequence = entry.sequence;
    const int32_t end = entry.first_token + entry.num_tokens;
    const auto pages_held = static_cast<int32_t>(sequence->pages.size());
    const int64_t slots_free = (int64_t{pool_->num_free()} + pages_held) * config_.page_size - end;
    const auto num_drafts = static_cast<int32_t>(std::min<int64_t>(
        {static_cast<int64_t>(sequence->drafts.size()), rows_max - batch->num_tokens, slots_free}));
    if (num_drafts > 0 &&
        pool_->AllocateOnto(&sequence->pages, PagesFor(end + num_drafts) - pages_held)) {
      entry.num_drafts = num_drafts;
      sequence->drafts_in_flight = num_drafts;
      batch->num_tokens += num_drafts;
    }
  }
}

// The running sequence whose turn it is gets its tokens and the pages for them.
void Scheduler::VisitRunning(Plan* plan) {
  Sequence* sequence = running_[plan->next_running];
  if (sequence->held) {
    ++plan->next_running;
    return;
  }
  const int32_t lacking = sequence->num_uncomputed();
  MLC_CHECK(lacking >= 1 && PagesFor(sequence->length()) <= pool_->num_pages())
      << "sequence " << sequence->id << " has " << sequence->length() << " tokens, "
      << sequence->computed << " computed";
  const bool is_decode = lacking == 1;
  plan->decodes_ahead -= is_decode ? 1 : 0;
  const int32_t wanted =
      std::min(plan->tokens_left - plan->decodes_ahead, MostTokens(*sequence, plan->scores_left));
  const int32_t granted = wanted > 0 ? Grow(sequence, wanted, plan) : 0;
  if (granted > 0) {
    BatchEntry entry = {sequence, sequence->computed, granted, granted == lacking};
    entry.first_scored = sequence->scored;
    entry.num_scored = NumScored(*sequence, granted);
    plan->scores_left -= entry.num_scored;
    (is_decode ? plan->batch.entries : chunks_).push_back(entry);
    plan->batch.num_tokens += granted;
    plan->tokens_left -= granted;
    sequence->in_flight = granted;
    ++num_in_flight_;
  }
  ++plan->next_running;
}

// The waiting sequence whose turn it is starts, is passed over, or ends admission for this step.
void Scheduler::VisitWaiting(Plan* plan) {
  Sequence* sequence = waiting_[plan->next_waiting];
  const auto& preempted = plan->batch.preempted;
  if (std::find(preempted.begin(), preempted.end(), sequence) != preempted.end()) {
    plan->admitting = false;
    return;
  }
  const Sequence* source = nullptr;
  const PromptSource prompt = FindPromptSource(*sequence, *plan, &source);
  if (prompt == PromptSource::kPending) {
    PassOver(plan);
    return;
  }
  if (MostTokens(*sequence, plan->scores_left) == 0) {
    PassOver(plan);
    return;
  }
  // Taken first, so that preempting the source leaves them alive. What it leaves in the page after
  // them stays until that page is given out again: this copy is queued before, and copies are made
  // in order, before any row is written.
  std::optional<PageId> last_page;
  if (prompt == PromptSource::kRunning) {
    TakeSharedPages(sequence, *source);
    if (sequence->computed < SharedTokens(*sequence)) {
      last_page = source->pages[sequence->pages.size()];
    }
  }
  if (!MakeRoom(*sequence, plan)) {
    ReleasePages(sequence);
    plan->admitting = false;
    return;
  }
  waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(plan->next_waiting));
  running_.insert(running_.begin() + static_cast<std::ptrdiff_t>(plan->next_running), sequence);
  sequence->state = SequenceState::kRunning;
  // A held sequence has no part in the step, which may then be none.
  const bool copies = last_page && !sequence->held && CopyLastPage(sequence, *last_page, plan);
  plan->decodes_ahead += sequence->decodes() ? 1 : 0;
  VisitRunning(plan);
  MLC_CHECK(!copies || sequence->in_flight > 0)
      << "sequence " << sequence->id << " does not run in the step that copies its prompt";
}

// The waiting sequence whose turn it is keeps its place and a seat; those after it may start.
void Scheduler::PassOver(Plan* plan) const {
  ++plan->seats_kept;
  ++plan->next_waiting;
  // With every seat taken or kept, nobody further down can start: the walk stays short.
  plan->admitting = static_cast<int32_t>(plan->next_running) + plan->seats_kept < max_running_;
}

// True when `candidate` has a seat, a token and the pages to catch up, after preempting sequences
// after it in order where that helps. The first in order always succeeds.
bool Scheduler::MakeRoom(const Sequence& candidate, Plan* plan) {
  const size_t place = plan->next_running;
  const bool is_first = place == 0;
  if (!is_first && plan->tokens_left <= plan->decodes_ahead) {
    return false;
  }
  // One page of growth for each before it, so that it is not preempted at once.
  const int32_t pages_needed = PagesFor(candidate.length()) -
                               static_cast<int32_t>(candidate.pages.size()) +
                               static_cast<int32_t>(place);
  const int32_t seats = max_running_ - plan->seats_kept;
  if (!is_first && (static_cast<int32_t>(place) >= seats ||
                    pages_needed > pool_->num_free() + PagesReclaimable(place))) {
    return false;
  }
  while (running_.size() > place && (num_running() >= seats || pages_needed > pool_->num_free())) {
    PreemptLast(plan);
  }
  return true;
}

// Takes pages for `num_tokens` more tokens of the running sequence whose turn it is, preempting
// those after it. Returns for how many tokens there are pages now: fewer, or 0, when nobody is left
// to preempt.
int32_t Scheduler::Grow(Sequence* sequence, int32_t num_tokens, Plan* plan) {
  const auto pages_lacking = [&](int32_t count) {
    return PagesFor(sequence->computed + count) - static_cast<int32_t>(sequence->pages.size());
  };
  while (!pool_->AllocateOnto(&sequence->pages, pages_lacking(num_tokens))) {
    if (running_.size() == plan->next_running + 1) {
      const auto pages_held = static_cast<int32_t>(sequence->pages.size());
      const int32_t slots_held = pages_held * config_.page_size - sequence->computed;
      const int32_t slots_free = pool_->num_free() * config_.page_size;
      num_tokens = std::min(num_tokens, slots_held + slots_free);
      return pool_->AllocateOnto(&sequence->pages, pages_lacking(num_tokens)) ? num_tokens
                                                                              : slots_held;
    }
    PreemptLast(plan);
  }
  return num_tokens;
}

// The last running sequence, which has not had its turn, goes back to its place in the queue.
void Scheduler::PreemptLast(Plan* plan) {
  Sequence* victim = running_.back();
  running_.pop_back();
  plan->decodes_ahead -= victim->decodes() ? 1 : 0;
  ReleasePages(victim);
  victim->state = SequenceState::kWaiting;
  waiting_.insert(std::lower_bound(waiting_.begin(), waiting_.end(), victim, Before), victim);
  plan->batch.preempted.push_back(victim);
}

void Scheduler::ReleasePages(Sequence* sequence) {
  for (auto page = sequence->pages.rbegin(); page != sequence->pages.rend(); ++page) {
    pool_->Release(*page);
  }
  sequence->pages.clear();
  sequence->computed = 0;
}

int32_t Scheduler::PagesFor(int32_t num_tokens) const {
  return (num_tokens + config_.page_size - 1) / config_.page_size;
}

// How many pages become free when running_[first_running, ...) are preempted.
int32_t Scheduler::PagesReclaimable(size_t first_running) {
  int32_t count = 0;
  for (size_t index = first_running; index < running_.size(); ++index) {
    for (PageId page : running_[index]->pages) {
      count += ++releases_[page] == pool_->reference_count(page) ? 1 : 0;
    }
  }
  for (size_t index = first_running; index < running_.size(); ++index) {
    for (PageId page : running_[index]->pages) {
      releases_[page] = 0;
    }
  }
  return count;
}

}  // namespace mlc_server
