#include "sampling/blocked_logits.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace mlc_server {

void BlockedLogits::Reset(const float* logits, int32_t count) {
  MLC_CHECK(count >= 1 && count <= kMaxVocabulary) << "a row of " << count << " logits";
  logits_ = logits;
  count_ = count;
  FindMaxima();
  if (max_logit_ == std::numeric_limits<float>::infinity()) {
    clamped_.assign(logits, logits + count);
    for (float& logit : clamped_) {
      logit = logit > std::numeric_limits<float>::max() ? std::numeric_limits<float>::max() : logit;
    }
    logits_ = clamped_.data();
    FindMaxima();
  }
}

void BlockedLogits::FindMaxima() {
  maxima_.resize((count_ + kLogitBlock - 1) / kLogitBlock);
  passes_.block_maxima(logits_, count_, maxima_.data());
  max_logit_ = *std::max_element(maxima_.begin(), maxima_.end());
}

int32_t BlockedLogits::ArgMax() const {
  const auto block = std::find(maxima_.begin(), maxima_.end(), max_logit_);
  const float* begin = logits_ + (block - maxima_.begin()) * kLogitBlock;
  const float* found = std::find(begin, logits_ + count_, max_logit_);
  MLC_CHECK(found != logits_ + count_) << "no logit equals the maximum " << max_logit_;
  return static_cast<int32_t>(found - logits_);
}

double BlockedLogits::Masses(Cut cut, WeightScale scale, std::vector<double>* masses) const {
  masses->resize(maxima_.size());
  return passes_.block_masses(logits_, count_, maxima_.data(), cut, scale, masses->data());
}

}  // namespace mlc_server
