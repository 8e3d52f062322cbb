#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace mlc_server {

// How the next token is chosen and when generation ends. "Off" values are noted per field.
struct SamplingParams {
  // Divides the logits. 0 is greedy: the most likely token, ties to the lowest id. Range [0, 2].
  double temperature = 1.0;
  // Nucleus: keep the smallest set of tokens whose probability reaches top_p. 1 is off. (0, 1].
  double top_p = 1.0;
  // Keep the top_k most likely tokens. 0 is off.
  int32_t top_k = 0;
  // Drop tokens less likely than min_p times the most likely one. 0 is off. [0, 1].
  double min_p = 0.0;
  // Divides (logit > 0) or multiplies (logit < 0) the logit of every token already in prompt or
  // output (arXiv:1909.05858). 1 is off. (0, 2].
  double repetition_penalty = 1.0;
  // Subtracted once from the logit of every token generated so far. 0 is off. [-2, 2].
  double presence_penalty = 0.0;
  // Subtracted once per occurrence from the logit of every generated token. 0 is off. [-2, 2].
  double frequency_penalty = 0.0;
  // Added to the logit of (token id, bias). At most 1024 entries, |bias| <= 100.
  std::vector<std::pair<int32_t, float>> logit_bias;
  // Random numbers are a function of (seed, choice, position) alone. The HTTP layer draws one when
  // the client gives none.
  uint64_t seed = 0;
  // Most tokens to generate; -1 is "until the context window is full". 0 runs the prompt and ends.
  int32_t max_tokens = -1;
  // EOS and stop ids are masked until this many tokens have been generated, and no stop string
  // that is complete before matches. 0 is off.
  int32_t min_tokens = 0;
  // Generation ends when the text contains one of these; at most 16 of at most 1024 bytes.
  std::vector<std::string> stop;
  // Generation ends when one of these ids is drawn (besides the model's EOS ids).
  std::vector<int32_t> stop_token_ids;
  // The model's EOS ids do not end generation; stop strings and stop_token_ids still do.
  bool ignore_eos = false;
  // Keep the matched stop string in the text.
  bool include_stop_str_in_output = false;
  // Number of alternatives reported per token: -1 is no logprobs at all, 0 the drawn token only.
  int32_t top_logprobs = -1;
  // The same of each prompt token after the first, given those before it.
  int32_t prompt_logprobs = -1;

  // Checks every field against the ranges above; `vocab_size` bounds token ids.
  Status Validate(int32_t vocab_size) const;
};

}  // namespace mlc_server
