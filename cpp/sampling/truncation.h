#pragma once

#include <cstdint>
#include <vector>

#include "sampling/blocked_logits.h"
#include "sampling/vector_passes.h"

namespace mlc_server {

// Finds the cuts of top_k, top_p and min_p without sorting the vocabulary. Holds scratch only.
class Truncation {
 public:
  // The `k` >= 1 most likely tokens; all of them when fewer are finite.
  Cut TopK(const BlockedLogits& row, int32_t k);
  // The fewest most likely tokens within `cut` whose mass reaches `top_p` of the mass `total` of
  // all tokens within it; arXiv:1904.09751. top_p in (0, 1).
  Cut TopP(const BlockedLogits& row, Cut cut, WeightScale scale, double total, double top_p);
  // The tokens within `cut` at least `min_p` times as likely as the most likely one, that is, with
  // logit >= max + temperature * ln(min_p); arXiv:2407.01082. min_p in (0, 1].
  static Cut MinP(const BlockedLogits& row, Cut cut, double temperature, double min_p);

 private:
  struct Candidate {
    float logit;
    int32_t id;
    double mass;
  };
  Cut ReachMass(double target);

  std::vector<float> maxima_;          // a copy of the row's, to be partially ordered
  std::vector<double> masses_;         // of the row's blocks
  std::vector<Candidate> candidates_;  // in order of id
};

}  // namespace mlc_server
