#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace mlc_server {

// Passes over a row of logits go block by block, so that later steps can skip whole blocks.
constexpr int32_t kLogitBlock = 128;
// Up to here a sum of token weights is exact (see TokenWeight).
constexpr int32_t kMaxVocabulary = 1 << 19;

// Which tokens of a row are kept: those that come no later than (logit, id) in the order of
// logit descending, id ascending. The default keeps all.
struct Cut {
  float logit = -std::numeric_limits<float>::infinity();
  int32_t id = std::numeric_limits<int32_t>::max();

  bool Keeps(float other_logit, int32_t other_id) const {
    return other_logit > logit || (other_logit == logit && other_id <= id);
  }
};

// What a weight is relative to.
struct WeightScale {
  float max_logit = 0.0f;  // finite; the largest of the row
  float inv_temperature = 1.0f;
};

// exp((logit - max_logit) * inv_temperature), in [0, 1], rounded to a multiple of 2^-34; 0 for NaN.
// Sums of at most kMaxVocabulary such weights fit a double's 53 bits, so they are exact: no order
// of summation, and no width of vector, can change a draw.
double TokenWeight(float logit, WeightScale scale);

// One implementation of the passes; all give the same bits.
struct VectorPasses {
  const char* name;
  // maxima[b] = largest of block b, NaN left out; -inf for a block of nothing else.
  // `maxima` has one entry per started block of `count` logits.
  void (*block_maxima)(const float* logits, int32_t count, float* maxima);
  // masses[b] = sum of the weights of the tokens of block b that `cut` keeps; returns their total.
  // `maxima` are those of block_maxima.
  double (*block_masses)(const float* logits, int32_t count, const float* maxima, Cut cut,
                         WeightScale scale, double* masses);
};

// Those this machine can run, the portable one first and the fastest last.
std::vector<VectorPasses> AvailableVectorPasses();

}  // namespace mlc_server
