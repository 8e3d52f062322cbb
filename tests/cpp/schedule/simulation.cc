#include "cpp/schedule/simulation.h"

#include <algorithm>

#include "support/cpp_test.h"

namespace mlc_server::testing {

void SimulationStats::Add(const SimulationStats& other) {
  steps += other.steps;
  tokens += other.tokens;
  arrived += other.arrived;
  finished += other.finished;
  cancelled += other.cancelled;
  cancelled_in_flight += other.cancelled_in_flight;
  preempted += other.preempted;
  allocation_faults += other.allocation_faults;
  shared_starts += other.shared_starts;
  copies += other.copies;
  heirs += other.heirs;
  waits_for_prompt += other.waits_for_prompt;
  drafts += other.drafts;
  drafts_kept += other.drafts_kept;
  draft_pages += other.draft_pages;
  scored += other.scored;
  waits_for_scores += other.waits_for_scores;
  trace = ExtendPrefixHash(trace ^ other.trace, 0);
}

Simulation::Simulation(uint64_t seed, int32_t num_steps) : random_(seed), num_steps_(num_steps) {
  DrawConfig();
  pool_ = std::make_unique<PagePool>(config_.num_pages);
  scheduler_ = std::make_unique<Scheduler>(config_, pool_.get());
  kv_ = std::make_unique<ShadowKv>(config_.num_pages, config_.page_size);
}

Simulation::~Simulation() = default;

// Half of the pools are so small that preemption is the rule.
void Simulation::DrawConfig() {
  config_.vocab_size = 1 << 16;
  config_.page_size = 1 << Draw(0, 4);
  config_.num_pages = Chance(0.5) ? Draw(4, 16) : Draw(16, 80);
  config_.max_sequence_length = Chance(0.5) ? Draw(4, 40) : Draw(40, 160);
  config_.max_batch_size = Draw(1, 16);
  config_.prefill_chunk_size = Chance(0.1) ? Draw(1, 4) : Draw(4, 64);
  arrival_chance_ = Draw(2, 60) / 100.0;
  cancel_chance_ = Chance(0.5) ? 0.0 : 0.1;
  fault_chance_ = Chance(0.7) ? 0.0 : Draw(1, 30) / 100.0;
  choices_chance_ = Chance(0.3) ? 0.0 : 0.5;
  draft_chance_ = Chance(0.3) ? 0.0 : 0.7;
  config_.speculative_rows_max = Draw(1, 24);
  score_chance_ = Chance(0.5) ? 0.0 : Draw(1, 10) / 10.0;
  config_.scored_rows_max = Draw(1, 20);
  num_priorities_ = Chance(0.5) ? 1 : 3;
  max_live_ = Draw(1, 32);
}

const SimulationStats& Simulation::Run() {
  pool_->SetAllocationFault([this](int32_t) {
    const bool fails = fault_chance_ > 0 && Chance(fault_chance_);
    faulted_ |= fails;
    stats_.allocation_faults += fails;
    return fails;
  });
  for (int32_t step = 0; step < num_steps_; ++step) {
    Arrive();
    CancelSome();
    Step(/*eventful=*/true);
  }
  fault_chance_ = 0;
  // The first sequence in order gets a token in every step, so this many must do.
  int64_t steps_left = 0;
  for (const Live& live : live_) {
    steps_left += live.final_length;
  }
  for (; !live_.empty(); --steps_left) {
    EXPECT_GT(steps_left, 0);
    Step(/*eventful=*/false);
  }
  EXPECT_TRUE(scheduler_->Schedule().entries.empty());
  EXPECT_EQ(pool_->num_free(), pool_->num_pages());
  return stats_;
}

void Simulation::Arrive() {
  if (static_cast<int32_t>(live_.size()) >= max_live_ || !Chance(arrival_chance_)) {
    return;
  }
  const int32_t longest = config_.MaxTokensPerSequence();
  auto request = std::make_shared<Request>();
  request->prompt_ids.resize(Chance(0.3) ? Draw(1, longest - 1) : Draw(1, (longest + 1) / 2));
  for (int32_t& token : request->prompt_ids) {
    token = Draw(0, config_.vocab_size - 1);
  }
  request->num_choices = Chance(choices_chance_) ? Draw(2, 6) : 1;
  request->priority = Draw(0, num_priorities_ - 1);
  request->sampling.prompt_logprobs = Chance(score_chance_) ? 0 : -1;
  const auto prompt_length = static_cast<int32_t>(request->prompt_ids.size());
  for (int32_t choice = 0; choice < request->num_choices; ++choice) {
    Live live;
    live.sequence = std::make_unique<Sequence>();
    live.sequence->id = next_id_++;
    live.sequence->request = request;
    live.sequence->choice = choice;
    for (int32_t token : request->prompt_ids) {
      AppendToken(&live, token);
    }
    live.final_length = Draw(prompt_length + 1, longest);
    scheduler_->Add(live.sequence.get());
    const auto place = std::upper_bound(
        live_.begin(), live_.end(), live,
        [this](const Live& a, const Live& b) { return Before(*a.sequence, *b.sequence); });
    live_.insert(place, std::move(live));
    ++stats_.arrived;
  }
}

void Simulation::CancelSome() {
  if (!live_.empty() && Chance(cancel_chance_)) {
    Erase(Draw(0, static_cast<int32_t>(live_.size()) - 1));
    ++stats_.cancelled;
  }
}

// Guesses for some sequences, whatever they are doing; those of the last step are forgotten.
void Simulation::DraftSome() {
  for (Live& live : live_) {
    std::vector<int32_t>& drafts = live.sequence->drafts;
    drafts.clear();
    if (Chance(draft_chance_)) {
      const int32_t most = config_.MaxTokensPerSequence() - live.sequence->length() - 1;
      drafts.resize(std::clamp(Draw(0, 5), 0, std::max(most, 0)));
      for (int32_t& token : drafts) {
        token = Draw(0, config_.vocab_size - 1);
      }
    }
  }
}

void Simulation::Step(bool eventful) {
  faulted_ = false;
  for (Live& live : live_) {
    live.was_running = live.sequence->state == SequenceState::kRunning;
    live.was_lacking = live.sequence->num_uncomputed();
  }
  DraftSome();
  Batch batch = scheduler_->Schedule();
  scheduler_->CheckIntegrity();
  CheckOwners();
  CheckEntries(batch);
  CheckDrafts(batch);
  CheckScores(batch);
  CheckPreempted(batch);
  CheckProgress(batch);
  CheckWorkIsConserved(batch);
  CheckSharing(batch);
  Batch surviving = batch;
  if (eventful && Chance(cancel_chance_)) {
    CancelInFlight(&surviving);
  }
  scheduler_->CheckIntegrity();
  RunModel(surviving);
  // A batch of which nothing is left need not be committed.
  if (!surviving.entries.empty() || Chance(0.5)) {
    scheduler_->Commit(batch);
  }
  for (const BatchEntry& entry : surviving.entries) {
    EXPECT_EQ(entry.sequence->computed, entry.first_token + entry.num_tokens);
    EXPECT_EQ(entry.sequence->in_flight, 0);
    EXPECT_EQ(entry.sequence->scored, Find(entry.sequence)->scored);
  }
  AppendTokens(surviving);
  scheduler_->CheckIntegrity();
  pool_->CheckIntegrity();
  CheckOwners();
  kv_->WipeFreePages(*pool_);
  ++stats_.steps;
  stats_.tokens += batch.num_tokens;
  stats_.preempted += static_cast<int64_t>(batch.preempted.size());
}

// Usually one sequence of the batch, sometimes all, as when the model fails.
void Simulation::CancelInFlight(Batch* batch) {
  const auto size = static_cast<int32_t>(batch->entries.size());
  for (int32_t count = Chance(0.1) ? size : std::min(size, 1); count > 0; --count) {
    const int32_t index = Draw(0, static_cast<int32_t>(batch->entries.size()) - 1);
    const Live* victim = Find(batch->entries[index].sequence);
    batch->entries.erase(batch->entries.begin() + index);
    Erase(victim - live_.data());
    ++stats_.cancelled_in_flight;
  }
}

// Copies pages, reads every entry's context, then writes its rows, as a forward pass does.
void Simulation::RunModel(const Batch& batch) {
  for (const PageCopy& copy : batch.copies) {
    kv_->Copy(copy.from, copy.to, *pool_);
    ++stats_.copies;
  }
  for (const BatchEntry& entry : batch.entries) {
    const Live* live = Find(entry.sequence);
    kv_->ExpectPrefix(*entry.sequence, live->prefix_hashes, entry.first_token);
  }
  for (const BatchEntry& entry : batch.entries) {
    const Live* live = Find(entry.sequence);
    const int32_t end = entry.first_token + entry.num_tokens;
    for (int32_t position = entry.first_token; position < end; ++position) {
      kv_->Write(*entry.sequence, position, live->prefix_hashes[position], *pool_, stats_.steps);
    }
    uint64_t prefix_hash = live->prefix_hashes[end - 1];
    for (int32_t draft = 0; draft < entry.num_drafts; ++draft) {
      prefix_hash = ExtendPrefixHash(prefix_hash, entry.sequence->drafts[draft]);
      kv_->Write(*entry.sequence, end + draft, prefix_hash, *pool_, stats_.steps);
    }
    Find(entry.sequence)->scored += entry.num_scored;
    stats_.scored += entry.num_scored;
    stats_.drafts += entry.num_drafts;
    stats_.draft_pages += PagesFor(end + entry.num_drafts) - PagesFor(end);
    stats_.trace = ExtendPrefixHash(stats_.trace, static_cast<int32_t>(entry.sequence->id));
    stats_.trace = ExtendPrefixHash(stats_.trace, end + entry.num_drafts);
    for (PageId page : entry.sequence->pages) {
      stats_.trace = ExtendPrefixHash(stats_.trace, page);
    }
  }
}

void Simulation::AppendTokens(const Batch& batch) {
  for (const BatchEntry& entry : batch.entries) {
    if (entry.wants_logits) {
      AppendDrawn(entry);
    }
  }
}

// Some of the drafts that ran turn out right, then comes a token of the model's own. The sequence
// may end at any of them.
void Simulation::AppendDrawn(const BatchEntry& entry) {
  Live* live = Find(entry.sequence);
  const int32_t num_right = Draw(0, entry.num_drafts);
  for (int32_t index = 0; index <= num_right; ++index) {
    AppendToken(
        live, index < num_right ? entry.sequence->drafts[index] : Draw(0, config_.vocab_size - 1));
    if (live->sequence->length() >= live->final_length) {
      Erase(live - live_.data());
      ++stats_.finished;
      return;
    }
  }
  if (entry.num_drafts > 0) {
    scheduler_->KeepDrafts(entry.sequence, num_right);
    stats_.drafts_kept += num_right;
  }
}

void Simulation::AppendToken(Live* live, int32_t token) {
  const uint64_t before = live->prefix_hashes.empty() ? 0 : live->prefix_hashes.back();
  live->sequence->tokens.push_back(token);
  live->prefix_hashes.push_back(ExtendPrefixHash(before, token));
}

void Simulation::Erase(size_t index) {
  Sequence* sequence = live_[index].sequence.get();
  const int32_t num_waiting = scheduler_->num_waiting();
  const bool was_waiting = sequence->state == SequenceState::kWaiting;
  scheduler_->Remove(sequence);
  stats_.heirs += num_waiting - scheduler_->num_waiting() - (was_waiting ? 1 : 0);
  EXPECT_EQ(sequence->state, SequenceState::kFinished);
  EXPECT_TRUE(sequence->pages.empty());
  live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(index));
}

Simulation::Live* Simulation::Find(const Sequence* sequence) {
  for (Live& live : live_) {
    if (live.sequence.get() == sequence) {
      return &live;
    }
  }
  Fail(__FILE__, __LINE__, "the batch holds a sequence that is not in the scheduler");
}

int32_t Simulation::Draw(int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random_() % static_cast<uint64_t>(high - low + 1));
}

bool Simulation::Chance(double probability) {
  return static_cast<double>(random_() >> 11) * 0x1p-53 < probability;
}

}  // namespace mlc_server::testing
