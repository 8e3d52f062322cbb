#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/sampling_params.h"

namespace mlc_server::testing {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The shapes that rows of logits come in, and some that they should not.
enum class RowShape {
  kModel,   // a normal bulk and a few that stand out, as language models give
  kFlat,    // nearly equal
  kTies,    // few distinct values
  kEqual,   // all the same
  kSpread,  // magnitudes from denormal to 1e30
  kBroken,  // NaN and infinities among the rest
};
constexpr int kNumRowShapes = 6;

inline std::vector<float> MakeRow(RowShape shape, int32_t size, std::mt19937* rng) {
  std::normal_distribution<float> normal(0.0f, 2.5f);
  std::vector<float> row(size);
  for (float& logit : row) {
    const uint32_t draw = (*rng)();
    switch (shape) {
      case RowShape::kModel:
        logit = normal(*rng) + (draw % 512 == 0 ? 9.0f : 0.0f);
        break;
      case RowShape::kFlat:
        logit = 3.0f + 1e-3f * normal(*rng);
        break;
      case RowShape::kTies:
        logit = static_cast<float>(static_cast<int>(draw % 5)) - 2.0f;
        break;
      case RowShape::kEqual:
        logit = -1.5f;
        break;
      case RowShape::kSpread:
        logit = std::pow(10.0f, static_cast<float>(draw % 70) - 40.0f) * (draw & 128 ? 1 : -1);
        break;
      case RowShape::kBroken:
        logit = draw % 7 == 0 ? kNan : draw % 7 == 1 ? -kInf : normal(*rng);
        if (draw % 1024 == 2) {
          logit = kInf;
        }
        break;
    }
  }
  return row;
}

// Options on and off in all combinations, at their edges now and then.
inline SamplingParams MakeParams(std::mt19937* rng) {
  const auto pick = [rng](std::vector<double> values) { return values[(*rng)() % values.size()]; };
  SamplingParams params;
  params.temperature = pick({0.0, 1e-6, 0.01, 0.3, 0.7, 1.0, 1.0, 2.0});
  params.top_p = pick({1.0, 1.0, 1.0, 0.999, 0.95, 0.5, 0.1, 1e-9});
  params.top_k = static_cast<int32_t>(pick({0, 0, 0, 1, 2, 5, 40, 300, 1000000}));
  params.min_p = pick({0.0, 0.0, 0.0, 0.001, 0.05, 0.5, 1.0});
  params.seed = (*rng)();
  return params;
}

}  // namespace mlc_server::testing
