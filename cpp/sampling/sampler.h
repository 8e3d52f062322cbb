#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "core/sampling_params.h"

namespace mlc_server {

// Log-probability of one token under the raw model distribution (before penalties, bias,
// temperature and truncation).
struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0.0f;
};

enum class SampleStatus {
  kDrawn,
  kNoCandidate,  // every logit is NaN, -inf or banned: the sequence cannot go on
};

struct SampleResult {
  SampleStatus status = SampleStatus::kDrawn;
  int32_t token_id = 0;  // -1 unless kDrawn
  TokenLogprob logprob;  // of token_id; set when top_logprobs >= 0
  // The top_logprobs most likely tokens, most likely first, ties by id; fewer only when fewer
  // logits are finite.
  std::vector<TokenLogprob> alternatives;
};

// Counts a sequence's tokens as penalties need them. Kept per sequence, updated per token.
struct TokenCounts {
  std::unordered_map<int32_t, int32_t> generated;  // id -> occurrences in the output
  std::unordered_map<int32_t, int32_t> prompt;     // filled only when repetition_penalty != 1
};

// Draws tokens from logits. Holds scratch only: results depend on the arguments alone.
class Sampler {
 public:
  explicit Sampler(int32_t vocab_size);
  // `logits` [vocab_size] is left unchanged. The random number is Philox(seed, choice, position),
  // `position` being the index of the drawn token in its output. `banned` ids cannot be drawn.
  SampleResult Sample(const float* logits, const SamplingParams& params, const TokenCounts& counts,
                      int32_t choice, int32_t position, const std::vector<int32_t>& banned);

 private:
  int32_t vocab_size_;
  std::vector<float> adjusted_;        // [vocab_size] logits after bias and penalties
  std::vector<int32_t> candidates_;    // ids that survive truncation
};

}  // namespace mlc_server
