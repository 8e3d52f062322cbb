#pragma once

#include <cstdint>
#include <vector>

#include "core/sampling_params.h"
#include "sampling/sampler.h"

namespace mlc_server {

// Whether AdjustLogits would change anything.
bool NeedsAdjustment(const SamplingParams& params, const TokenCounts& counts,
                     const std::vector<int32_t>& banned);

// Applies logit_bias, then repetition_penalty, then presence and frequency penalties, then bans,
// to `logits` in place. Each token's result depends on its own logit and counts only.
// Banned ids outside the row are ignored; every other id must be inside it.
void AdjustLogits(const SamplingParams& params, const TokenCounts& counts,
                  const std::vector<int32_t>& banned, std::vector<float>* logits);

// Sets every logit to -inf whose id has no bit (id % 32 of word id / 32) in `allowed`.
void KeepAllowed(const uint32_t* allowed, std::vector<float>* logits);

}  // namespace mlc_server
