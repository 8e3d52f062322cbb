#include "sampling/truncation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"

namespace mlc_server {
namespace {

// Candidates are narrowed by histograms of this many buckets until so few are left that sorting
// them costs less than another pass.
constexpr int32_t kBuckets = 256;
constexpr size_t kSortBelow = 48;
// The last token of a nucleus is looked for within these distances of the maximum, nearest first,
// in units of temperature. Beyond the last one weights are 0.
constexpr std::array<double, 6> kNucleusDistances = {1.0, 2.0, 4.0, 8.0, 16.0, 32.0};
// Then halving narrows the distance until at most this many tokens can be in question. The number
// of halvings is bounded for the sake of equal logits, which no distance separates.
constexpr double kFewCandidates = 2048.0;
constexpr int32_t kMaxHalvings = 12;

// The tokens that `cut` keeps whose logit is at least `bound`.
Cut Tighten(Cut cut, float bound) {
  return bound > cut.logit ? Cut{bound, std::numeric_limits<int32_t>::max()} : cut;
}

}  // namespace

Cut Truncation::TopK(const BlockedLogits& row, int32_t k) {
  MLC_CHECK(k >= 1) << "top_k is " << k;
  // Each of the k largest block maxima is a token, so the k-th largest token is no smaller than
  // the k-th largest of them.
  Cut bound;
  maxima_ = row.maxima();
  if (static_cast<size_t>(k) <= maxima_.size()) {
    const auto kth = maxima_.begin() + (k - 1);
    std::nth_element(maxima_.begin(), kth, maxima_.end(), std::greater<float>());
    bound.logit = *kth;
  }
  candidates_.clear();
  row.ForEachKept(bound,
                  [this](int32_t id, float logit) { candidates_.push_back({logit, id, 1.0}); });
  return candidates_.size() <= static_cast<size_t>(k) ? bound : ReachMass(k);
}

Cut Truncation::TopP(const BlockedLogits& row, Cut cut, WeightScale scale, double total,
                     double top_p) {
  const double target = top_p * total;
  // Invariant: the tokens that `outer` keeps reach the target, and those with a logit of `inner`
  // or more do not, so the last token of the nucleus is one of the former but not of the latter.
  Cut outer = cut;
  double outer_mass = total;
  double outer_distance = kNucleusDistances.back();
  float inner = std::numeric_limits<float>::infinity();
  double inner_mass = 0.0;
  double inner_distance = 0.0;
  const auto probe = [&](double distance) {
    const auto bound = static_cast<float>(scale.max_logit - distance / scale.inv_temperature);
    const Cut probed = Tighten(cut, bound);
    const double mass = row.Masses(probed, scale, &masses_);
    if (mass >= target) {
      outer = probed;
      outer_mass = mass;
      outer_distance = distance;
    } else {
      inner = probed.logit;
      inner_mass = mass;
      inner_distance = distance;
    }
    return mass >= target;
  };
  for (const double distance : kNucleusDistances) {
    if (probe(distance)) {
      break;
    }
  }
  for (int32_t halvings = 0; halvings < kMaxHalvings; ++halvings) {
    // Each token in question weighs at least exp(-outer_distance).
    if ((outer_mass - inner_mass) * std::exp(outer_distance) <= kFewCandidates) {
      break;
    }
    probe((inner_distance + outer_distance) / 2);
  }
  candidates_.clear();
  row.ForEachKept(outer, [&](int32_t id, float logit) {
    if (logit < inner) {
      candidates_.push_back({logit, id, TokenWeight(logit, scale)});
    }
  });
  return ReachMass(target - inner_mass);
}

Cut Truncation::MinP(const BlockedLogits& row, Cut cut, double temperature, double min_p) {
  const double exact = static_cast<double>(row.max_logit()) + temperature * std::log(min_p);
  constexpr double kLowest = std::numeric_limits<float>::lowest();
  float bound = static_cast<float>(std::max(exact, kLowest));
  if (bound < exact) {
    bound = std::nextafter(bound, std::numeric_limits<float>::infinity());
  }
  return Tighten(cut, bound);
}

// The cut at the candidate at which the mass, taken in order of logit descending and id ascending,
// reaches `target`. The masses add up exactly, so the order within a bucket does not matter.
Cut Truncation::ReachMass(double target) {
  MLC_CHECK(!candidates_.empty()) << "no token reaches the mass " << target;
  while (candidates_.size() > kSortBelow) {
    const auto [least, most] = std::minmax_element(
        candidates_.begin(), candidates_.end(),
        [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; });
    const double top = most->logit;
    const double range = top - static_cast<double>(least->logit);
    if (range == 0.0) {
      break;  // equal logits are already in order, that of their ids
    }
    const double buckets_per_unit = (kBuckets - 1) / range;
    const auto bucket_of = [&](const Candidate& candidate) {
      return static_cast<int32_t>((top - candidate.logit) * buckets_per_unit);
    };
    std::array<double, kBuckets> masses{};
    for (const Candidate& candidate : candidates_) {
      masses[bucket_of(candidate)] += candidate.mass;
    }
    int32_t boundary = 0;
    while (boundary < kBuckets - 1 && masses[boundary] < target) {
      target -= masses[boundary];
      ++boundary;
    }
    candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                     [&](const Candidate& candidate) {
                                       return bucket_of(candidate) != boundary;
                                     }),
                      candidates_.end());
  }
  if (candidates_.size() <= kSortBelow) {
    std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
      return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
    });
  }
  for (const Candidate& candidate : candidates_) {
    target -= candidate.mass;
    if (target <= 0.0) {
      return Cut{candidate.logit, candidate.id};
    }
  }
  return Cut{candidates_.back().logit, candidates_.back().id};
}

}  // namespace mlc_server
