#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "core/sampling_params.h"
#include "sampling/blocked_logits.h"
#include "sampling/truncation.h"

namespace mlc_server {

// Log-probability of one token under the raw model distribution (before penalties, bias,
// temperature and truncation). At least -9999, so that JSON can carry it.
struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0.0f;
};

// What the model thought of one token and of its rivals.
struct TokenLogprobs {
  TokenLogprob token;
  std::vector<TokenLogprob> alternatives;  // the most likely tokens, most likely first, ties by id
  int32_t rank = 0;                        // of `token`, 1 being the most likely; 0 is unknown
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

// Temperatures below this are greedy: dividing by them would overflow.
constexpr double kGreedyBelowTemperature = 1e-5;

// Draws tokens from logits. Holds scratch only: results depend on the arguments alone.
//
// The steps, in order, each skipped when its option is off:
//   1. logit_bias, repetition_penalty, then presence_penalty and frequency_penalty;
//   2. ids that are banned, or not allowed, become -inf;
//   3. temperature; 0 ends here with the most likely token, ties to the lowest id;
//   4. top_k; 5. top_p of what top_k left, renormalised; 6. min_p, relative to the most likely
//      token, hence after temperature. This is the order of Hugging Face's logits warpers.
// Among equal logits the lower id counts as the more likely one, so each step keeps an exact set.
// A NaN logit is never drawn; +inf counts as the largest finite float.
class Sampler {
 public:
  // vocab_size in [1, kMaxVocabulary].
  explicit Sampler(int32_t vocab_size);
  // `logits` [vocab_size] is left unchanged. The random number is Philox(seed, choice, position),
  // `position` being the index of the drawn token in its output. `banned` ids cannot be drawn;
  // ids outside the vocabulary are ignored in it. `allowed`, unless null, has bit id % 32 of word
  // id / 32 set for each id in [0, vocab_size) that can be drawn.
  SampleResult Sample(const float* logits, const SamplingParams& params, const TokenCounts& counts,
                      int32_t choice, int32_t position, const std::vector<int32_t>& banned,
                      const uint32_t* allowed = nullptr);
  // What the model thinks of `token_id`, which it may not have drawn: the log-probabilities that
  // Sample() would report of it, and its rank. `logits` are finite.
  TokenLogprobs Score(const float* logits, int32_t token_id, int32_t num_alternatives);

 private:
  // The cut that top_k, top_p and min_p leave of `blocked_`.
  Cut Truncate(const SamplingParams& params, WeightScale scale);
  int32_t Draw(const SamplingParams& params, int32_t choice, int32_t position);
  TokenLogprobs ReportLogprobs(int32_t token_id, int32_t num_alternatives);

  int32_t vocab_size_;
  std::vector<float> adjusted_;  // [vocab_size] logits after bias, penalties and bans
  BlockedLogits blocked_;        // the row at hand
  std::vector<double> masses_;   // [number of blocks] weight of each block's kept tokens
  Truncation truncation_;
};

}  // namespace mlc_server
