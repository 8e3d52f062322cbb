#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "sampling/vector_passes.h"

namespace mlc_server {

// A row of logits together with the maximum of each block of it, which is what lets every later
// step visit only the blocks that matter. Does not own the row.
class BlockedLogits {
 public:
  // Uses the fastest passes of this machine unless given others.
  explicit BlockedLogits(VectorPasses passes = AvailableVectorPasses().back()) : passes_(passes) {}

  // Reads `logits` [count] once. They must stay as they are until the next Reset.
  // +inf counts as the largest finite float.
  void Reset(const float* logits, int32_t count);

  const float* logits() const { return logits_; }
  int32_t count() const { return count_; }
  const std::vector<float>& maxima() const { return maxima_; }
  // The largest logit; -inf when every logit is NaN or -inf.
  float max_logit() const { return max_logit_; }
  // The lowest id that holds max_logit(), which must be finite.
  int32_t ArgMax() const;
  // Fills masses [number of blocks] with the weight of each block's kept tokens; returns the total.
  double Masses(Cut cut, WeightScale scale, std::vector<double>* masses) const;

  // Calls visit(id, logit), ids ascending, for every finite logit that `cut` keeps.
  template <typename Visit>
  void ForEachKept(Cut cut, Visit visit) const {
    constexpr float kLowest = std::numeric_limits<float>::lowest();
    for (size_t block = 0; block < maxima_.size(); ++block) {
      if (maxima_[block] < cut.logit || maxima_[block] < kLowest) {
        continue;
      }
      const int32_t begin = static_cast<int32_t>(block) * kLogitBlock;
      const int32_t end = count_ - begin < kLogitBlock ? count_ : begin + kLogitBlock;
      for (int32_t id = begin; id < end; ++id) {
        if (logits_[id] >= kLowest && cut.Keeps(logits_[id], id)) {
          visit(id, logits_[id]);
        }
      }
    }
  }

 private:
  void FindMaxima();

  VectorPasses passes_;
  const float* logits_ = nullptr;
  int32_t count_ = 0;
  float max_logit_ = 0.0f;
  std::vector<float> maxima_;   // [number of blocks]
  std::vector<float> clamped_;  // the row without +inf; used only when there was one
};

}  // namespace mlc_server
