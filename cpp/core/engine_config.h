#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"

namespace mlc_server {

// How the engine guesses tokens ahead, to check several in one step.
enum class SpeculativeMode {
  kDisable,
  kNgram,  // what followed the latest earlier occurrence of the last few tokens ("prompt lookup")
};

// Limits the engine runs under. Every one has a command-line flag (python/mlc_server/limits.py).
struct EngineConfig {
  // Most sequences in one step's batch.
  int32_t max_batch_size = 32;
  // Most tokens (prefill and decode together) in one step's batch.
  int32_t prefill_chunk_size = 512;
  // Longest prompt + output of one sequence, tokens.
  int32_t max_sequence_length = 8192;
  // Tokens of KV per page; fixed by the model library.
  int32_t page_size = 16;
  // Pages in the pool; page_size * num_pages is the total KV capacity.
  int32_t num_pages = 1024;
  // Most requests waiting in inbox and queue together; one more is refused with kQueueFull.
  int32_t max_queue_size = 512;
  // Most choices (n) of one request.
  int32_t max_choices = 16;
  int32_t vocab_size = 0;
  // Ids that end generation unless ignore_eos.
  std::vector<int32_t> eos_token_ids;
  // Drop the one leading space that sentencepiece tokenizers put before the first word of a text.
  bool strip_leading_space = false;
  // Changes how fast tokens come, never which.
  SpeculativeMode speculative_mode = SpeculativeMode::kDisable;
  // Most tokens guessed ahead of one sequence in a step. Fewer are where more do not pay.
  int32_t draft_tokens_max = 7;
  // A guess is made from the last ngram_max tokens if they occurred before, else from fewer, down
  // to ngram_min.
  int32_t ngram_min = 3;
  int32_t ngram_max = 4;
  // Guesses are checked only in steps of at most this many rows, guesses included: while weights
  // are streamed from memory, a few rows cost hardly more than one.
  int32_t speculative_rows_max = 8;
  // Most prompt tokens that get log-probabilities in one step. Each takes a row of logits, so it
  // bounds their memory.
  int32_t scored_rows_max = 64;
  // Run CheckIntegrity() of every stateful class after each step, not only when idle.
  bool check_every_step = false;

  // Checks every field against core/limits.h, and that KV slots can be numbered with int32.
  Status Validate() const;

  // Most tokens one sequence may ever have, prompt and output: max_sequence_length, or the whole
  // pool where that is smaller. The engine ends a sequence (kLength) when it gets there.
  int32_t MaxTokensPerSequence() const;
};

}  // namespace mlc_server
