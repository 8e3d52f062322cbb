// The engine's part of guessing tokens ahead: when, and what it costs.

#include <algorithm>
#include <memory>

#include "engine/engine.h"

namespace mlc_server {

// Guesses the tokens after those of `generation`, for the next step to check if it has room.
void Engine::Speculate(Generation* generation, int32_t num_drafts, int32_t num_right) {
  if (config_.speculative_mode == SpeculativeMode::kDisable) {
    return;
  }
  if (generation->speculator == nullptr) {
    generation->speculator = std::make_unique<Speculator>(config_);
  }
  generation->speculator->NoteStep(num_drafts, num_right, draft_cost_);
  generation->drafts.clear();
  const bool is_slow = generation->follower != nullptr && generation->follower->is_slow();
  const int32_t rows = scheduler_.num_running();
  if (is_slow || rows >= config_.speculative_rows_max) {
    return;
  }
  int32_t most = std::min(config_.draft_tokens_max, config_.speculative_rows_max - rows);
  // The last token that may come is drawn from the last draft's row at the latest.
  most = std::min(most, config_.MaxTokensPerSequence() - generation->length() - 1);
  if (const int32_t max_tokens = generation->request->sampling.max_tokens; max_tokens > 0) {
    most = std::min(most, max_tokens - generation->num_generated() - 1);
  }
  generation->speculator->Propose(generation->tokens, most, rows, step_costs_, &generation->drafts);
}

void Engine::PriceDrafts(const Batch& batch) {
  int32_t num_drafts = 0;
  for (const BatchEntry& entry : batch.entries) {
    num_drafts += entry.num_drafts;
  }
  const int32_t others = batch.num_tokens - num_drafts;
  draft_cost_ = num_drafts > 0 ? step_costs_.CostOfMore(others, num_drafts) / num_drafts : 0;
}

void Engine::NoteStepCost(const Batch& batch, int64_t step_ns) {
  const bool decodes =
      following_.empty() &&
      std::all_of(batch.entries.begin(), batch.entries.end(), [](const BatchEntry& entry) {
        return entry.num_tokens == 1 && entry.num_scored == 0;
      });
  if (decodes) {
    step_costs_.Note(batch.num_tokens, step_ns);
  }
}

}  // namespace mlc_server
