#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/request.h"

namespace mlc_server {

using SequenceId = uint64_t;
using PageId = int32_t;

enum class SequenceState {
  kWaiting,   // in the scheduler's queue: new, or preempted and to be recomputed
  kRunning,   // holds pages, takes part in steps
  kFinished,  // out of the scheduler, holds no pages
};

// One continuation being generated: choice `choice` of `request`.
// Only the scheduler changes `state`, `pages`, `computed`, `in_flight`, `drafts_in_flight` and
// `scored`; only the engine appends to `tokens` and sets `drafts` and `held`, and only between
// Scheduler::Commit() and the next Schedule().
struct Sequence {
  SequenceId id = 0;  // order of arrival; unique for the life of the engine
  std::shared_ptr<const Request> request;
  int32_t choice = 0;
  SequenceState state = SequenceState::kWaiting;
  std::vector<int32_t> tokens;  // prompt, then everything generated
  int32_t computed = 0;         // KV of tokens[0, computed) is in `pages`
  // Tokens after `computed` that the step now running computes; 0 between steps.
  int32_t in_flight = 0;
  // The engine keeps it out of steps for now: what it needs besides the model is not there yet.
  bool held = false;
  std::vector<int32_t> drafts;  // guesses of the tokens after `tokens`; may be run along with them
  // Drafts that the step runs after the `in_flight` tokens, until Scheduler::KeepDrafts().
  int32_t drafts_in_flight = 0;
  // Page i holds tokens [i * page_size, (i + 1) * page_size). One reference each in the pool;
  // pages that the prompt fills may be shared with other choices of the request.
  std::vector<PageId> pages;
  // The logits after each of tokens [0, scored) have given the log-probability of the token that
  // follows. It never goes back: what was scored before a preemption is not scored again.
  int32_t scored = 0;

  int32_t length() const { return static_cast<int32_t>(tokens.size()); }
  int32_t prompt_length() const { return static_cast<int32_t>(request->prompt_ids.size()); }
  int32_t num_generated() const { return length() - prompt_length(); }
  // Tokens whose KV is not in pages yet. 1 for a decoding sequence, more in prefill.
  int32_t num_uncomputed() const { return length() - computed; }
  // How far `scored` has to come. One choice scores the prompt for its request.
  int32_t num_to_score() const {
    return choice == 0 && request->sampling.prompt_logprobs >= 0 ? prompt_length() - 1 : 0;
  }
  bool decodes() const { return num_uncomputed() == 1 && !held; }
};

}  // namespace mlc_server
