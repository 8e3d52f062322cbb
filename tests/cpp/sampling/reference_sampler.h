#pragma once

// The sampler's definition, written plainly: sort everything, drop what each step drops, and walk
// the rest. Shares nothing with the sampler but the weight of one token and the random number.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/philox.h"
#include "sampling/sampler.h"

namespace mlc_server::testing {

inline std::vector<float> ReferenceAdjusted(std::vector<float> logits, const SamplingParams& params,
                                            const TokenCounts& counts,
                                            const std::vector<int32_t>& banned) {
  for (const auto& [id, bias] : params.logit_bias) {
    logits[id] += bias;
  }
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    const auto generated = counts.generated.find(id);
    const int32_t occurrences = generated == counts.generated.end() ? 0 : generated->second;
    float& logit = logits[id];
    if (params.repetition_penalty != 1.0 && (occurrences > 0 || counts.prompt.count(id) > 0)) {
      logit = static_cast<float>(logit > 0 ? logit / params.repetition_penalty
                                           : logit * params.repetition_penalty);
    }
    if (occurrences > 0) {
      logit = static_cast<float>(
          logit - (params.presence_penalty + params.frequency_penalty * occurrences));
    }
    if (std::find(banned.begin(), banned.end(), id) != banned.end()) {
      logit = -std::numeric_limits<float>::infinity();
    }
    logit = std::min(logit, std::numeric_limits<float>::max());  // leaves NaN alone
  }
  return logits;
}

// Ids that may be drawn, most likely first.
inline std::vector<int32_t> ReferenceKept(const std::vector<float>& logits,
                                          const SamplingParams& params) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    if (logits[id] > -std::numeric_limits<float>::infinity()) {
      ids.push_back(id);
    }
  }
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (ids.empty()) {
    return ids;
  }
  const size_t greedy = params.temperature < kGreedyBelowTemperature ? 1 : ids.size();
  const size_t top_k = params.top_k > 0 ? params.top_k : ids.size();
  ids.resize(std::min({ids.size(), greedy, top_k}));
  if (params.temperature < kGreedyBelowTemperature) {
    return ids;
  }
  const WeightScale scale{logits[ids[0]], static_cast<float>(1.0 / params.temperature)};
  if (params.top_p < 1.0) {
    double total = 0.0;
    for (const int32_t id : ids) {
      total += TokenWeight(logits[id], scale);
    }
    size_t count = 0;
    for (double mass = 0.0; mass < params.top_p * total; ++count) {
      mass += TokenWeight(logits[ids[count]], scale);
    }
    ids.resize(count);
  }
  if (params.min_p > 0.0) {
    const double lowest = logits[ids[0]] + params.temperature * std::log(params.min_p);
    while (logits[ids.back()] < lowest) {
      ids.pop_back();
    }
  }
  return ids;
}

// The id drawn; -1 when none can be.
inline int32_t ReferenceDraw(const std::vector<float>& logits, const SamplingParams& params,
                             int32_t choice, int32_t position) {
  std::vector<int32_t> ids = ReferenceKept(logits, params);
  if (ids.size() <= 1) {
    return ids.empty() ? -1 : ids[0];
  }
  const WeightScale scale{logits[ids[0]], static_cast<float>(1.0 / params.temperature)};
  std::sort(ids.begin(), ids.end());
  double total = 0.0;
  for (const int32_t id : ids) {
    total += TokenWeight(logits[id], scale);
  }
  const double drawn = total * PhiloxUniform(params.seed, choice, position);
  double sum = 0.0;
  for (const int32_t id : ids) {
    sum += TokenWeight(logits[id], scale);
    if (sum > drawn) {
      return id;
    }
  }
  return -1;
}

}  // namespace mlc_server::testing
