#include "sampling/logit_adjustment.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace mlc_server {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

float& LogitOf(int32_t token_id, std::vector<float>* logits) {
  MLC_CHECK(token_id >= 0 && static_cast<size_t>(token_id) < logits->size())
      << "token id " << token_id << " in a vocabulary of " << logits->size();
  return (*logits)[token_id];
}

// arXiv:1909.05858, with the sign rule that makes it a penalty for negative logits too.
void PenalizeRepetition(double penalty, float* logit) {
  *logit = static_cast<float>(*logit > 0.0f ? *logit / penalty : *logit * penalty);
}

void ApplyRepetitionPenalty(double penalty, const TokenCounts& counts, std::vector<float>* logits) {
  for (const auto& [token_id, count] : counts.prompt) {
    PenalizeRepetition(penalty, &LogitOf(token_id, logits));
  }
  for (const auto& [token_id, count] : counts.generated) {
    if (counts.prompt.count(token_id) == 0) {
      PenalizeRepetition(penalty, &LogitOf(token_id, logits));
    }
  }
}

}  // namespace

bool NeedsAdjustment(const SamplingParams& params, const TokenCounts& counts,
                     const std::vector<int32_t>& banned) {
  const bool repeats =
      params.repetition_penalty != 1.0 && !(counts.prompt.empty() && counts.generated.empty());
  const bool occurs = (params.presence_penalty != 0.0 || params.frequency_penalty != 0.0) &&
                      !counts.generated.empty();
  return repeats || occurs || !params.logit_bias.empty() || !banned.empty();
}

void AdjustLogits(const SamplingParams& params, const TokenCounts& counts,
                  const std::vector<int32_t>& banned, std::vector<float>* logits) {
  for (const auto& [token_id, bias] : params.logit_bias) {
    LogitOf(token_id, logits) += bias;
  }
  if (params.repetition_penalty != 1.0) {
    ApplyRepetitionPenalty(params.repetition_penalty, counts, logits);
  }
  if (params.presence_penalty != 0.0 || params.frequency_penalty != 0.0) {
    for (const auto& [token_id, count] : counts.generated) {
      float& logit = LogitOf(token_id, logits);
      logit =
          static_cast<float>(logit - (params.presence_penalty + params.frequency_penalty * count));
    }
  }
  for (const int32_t token_id : banned) {
    if (token_id >= 0 && static_cast<size_t>(token_id) < logits->size()) {
      (*logits)[token_id] = kForbidden;
    }
  }
}

void KeepAllowed(const uint32_t* allowed, std::vector<float>* logits) {
  constexpr size_t kWordBits = 32;
  const size_t count = logits->size();
  for (size_t begin = 0; begin < count; begin += kWordBits) {
    const uint32_t word = allowed[begin / kWordBits];
    if (word == std::numeric_limits<uint32_t>::max()) {
      continue;
    }
    const size_t end = std::min(count, begin + kWordBits);
    for (size_t id = begin; id < end; ++id) {
      if ((word >> (id - begin) & 1u) == 0) {
        (*logits)[id] = kForbidden;
      }
    }
  }
}

}  // namespace mlc_server
