#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/philox.h"
#include "sampling/logit_adjustment.h"

namespace mlc_server {
namespace {

constexpr float kNoCandidate = -std::numeric_limits<float>::infinity();
constexpr double kLowestLogprob = -9999.0;

}  // namespace

Sampler::Sampler(int32_t vocab_size) : vocab_size_(vocab_size) {
  MLC_CHECK(vocab_size >= 1 && vocab_size <= kMaxVocabulary) << "vocab_size is " << vocab_size;
}

SampleResult Sampler::Sample(const float* logits, const SamplingParams& params,
                             const TokenCounts& counts, int32_t choice, int32_t position,
                             const std::vector<int32_t>& banned, const uint32_t* allowed) {
  const bool adjusts = NeedsAdjustment(params, counts, banned) || allowed != nullptr;
  if (adjusts) {
    adjusted_.assign(logits, logits + vocab_size_);
    AdjustLogits(params, counts, banned, &adjusted_);
  }
  if (allowed != nullptr) {
    KeepAllowed(allowed, &adjusted_);
  }
  blocked_.Reset(adjusts ? adjusted_.data() : logits, vocab_size_);
  SampleResult result;
  if (blocked_.max_logit() == kNoCandidate) {
    result.status = SampleStatus::kNoCandidate;
    result.token_id = -1;
    return result;
  }
  result.token_id = params.temperature < kGreedyBelowTemperature ? blocked_.ArgMax()
                                                                 : Draw(params, choice, position);
  if (params.top_logprobs >= 0) {
    if (adjusts) {
      blocked_.Reset(logits, vocab_size_);
    }
    TokenLogprobs logprobs = ReportLogprobs(result.token_id, params.top_logprobs);
    result.logprob = logprobs.token;
    result.alternatives = std::move(logprobs.alternatives);
  }
  return result;
}

TokenLogprobs Sampler::Score(const float* logits, int32_t token_id, int32_t num_alternatives) {
  MLC_CHECK(token_id >= 0 && token_id < vocab_size_)
      << "token id " << token_id << " in a vocabulary of " << vocab_size_;
  blocked_.Reset(logits, vocab_size_);
  TokenLogprobs logprobs = ReportLogprobs(token_id, num_alternatives);
  const float logit = logits[token_id];
  int32_t num_better = 0;
  for (int32_t id = 0; id < token_id; ++id) {
    num_better += logits[id] >= logit ? 1 : 0;
  }
  for (int32_t id = token_id + 1; id < vocab_size_; ++id) {
    num_better += logits[id] > logit ? 1 : 0;
  }
  logprobs.rank = num_better + 1;
  return logprobs;
}

Cut Sampler::Truncate(const SamplingParams& params, WeightScale scale) {
  Cut cut;
  if (params.top_k > 0 && params.top_k < vocab_size_) {
    cut = truncation_.TopK(blocked_, params.top_k);
  }
  if (params.top_p < 1.0) {
    const double total = blocked_.Masses(cut, scale, &masses_);
    cut = truncation_.TopP(blocked_, cut, scale, total, params.top_p);
  }
  if (params.min_p > 0.0) {
    cut = Truncation::MinP(blocked_, cut, params.temperature, params.min_p);
  }
  return cut;
}

int32_t Sampler::Draw(const SamplingParams& params, int32_t choice, int32_t position) {
  const WeightScale scale{blocked_.max_logit(), static_cast<float>(1.0 / params.temperature)};
  const Cut cut = Truncate(params, scale);
  const double total = blocked_.Masses(cut, scale, &masses_);
  // The drawn token is the first at which the running sum, in order of id, exceeds `remaining`.
  double remaining = total * PhiloxUniform(params.seed, static_cast<uint32_t>(choice),
                                           static_cast<uint32_t>(position));
  size_t block = 0;
  while (block < masses_.size() && masses_[block] <= remaining) {
    remaining -= masses_[block];
    ++block;
  }
  const int32_t begin = static_cast<int32_t>(block) * kLogitBlock;
  const int32_t end = std::min(vocab_size_, begin + kLogitBlock);
  for (int32_t id = begin; id < end; ++id) {
    const float logit = blocked_.logits()[id];
    if (cut.Keeps(logit, id)) {
      const double weight = TokenWeight(logit, scale);
      if (weight > remaining) {
        return id;
      }
      remaining -= weight;
    }
  }
  MLC_CHECK(false) << "a draw from mass " << total << " left " << remaining;
  return -1;
}

// Expects the raw logits in `blocked_`.
TokenLogprobs Sampler::ReportLogprobs(int32_t token_id, int32_t num_alternatives) {
  const double max_logit = blocked_.max_logit();
  const double total = blocked_.Masses(Cut(), WeightScale{blocked_.max_logit(), 1.0f}, &masses_);
  const double log_total = std::log(total);
  const auto logprob_of = [&](int32_t id) {
    const double logprob = blocked_.logits()[id] - max_logit - log_total;
    return TokenLogprob{id, static_cast<float>(std::max(logprob, kLowestLogprob))};
  };
  TokenLogprobs result;
  result.token = logprob_of(token_id);
  if (num_alternatives == 0) {
    return result;
  }
  blocked_.ForEachKept(truncation_.TopK(blocked_, num_alternatives),
                       [&](int32_t id, float) { result.alternatives.push_back(logprob_of(id)); });
  std::sort(result.alternatives.begin(), result.alternatives.end(),
            [this](const TokenLogprob& a, const TokenLogprob& b) {
              const float logit_a = blocked_.logits()[a.token_id];
              const float logit_b = blocked_.logits()[b.token_id];
              return logit_a > logit_b || (logit_a == logit_b && a.token_id < b.token_id);
            });
  return result;
}

}  // namespace mlc_server
