#include "engine/speculator.h"

#include <algorithm>

namespace mlc_server {
namespace {

// Tokens. The first guesses have the benefit of the doubt; later ones live on what they earned.
constexpr double kInitialCredit = 0.9;
constexpr double kMaxCredit = 8;
// Of the credit, on more than one guess at once: so that there is another try.
constexpr double kMostAtOnce = 0.5;
constexpr double kEarnedByWaiting = 1.0 / 128;
// Guesses after fewer equal tokens than the first of these are of the first kind, and so on.
constexpr std::array<int32_t, 2> kMatchesOfKinds = {4, 8};
constexpr std::array<double, 3> kRightAtFirst = {0.75, 0.85, 0.92};
constexpr double kNewest = 0.125;
// Tokens for the time of one, at least, for guesses to be worth it. Otherwise one is tried now and
// then, and while such tries succeed.
constexpr double kLeastRate = 1.03;
constexpr int32_t kStepsBetweenTries = 32;

size_t KindOf(int32_t num_matching) {
  return static_cast<size_t>(
      std::count_if(kMatchesOfKinds.begin(), kMatchesOfKinds.end(),
                    [num_matching](int32_t least) { return num_matching >= least; }));
}

}  // namespace

Speculator::Speculator(const EngineConfig& config)
    : proposer_(config.ngram_min, config.ngram_max),
      credit_(kInitialCredit),
      right_(kRightAtFirst) {}

void Speculator::Propose(const std::vector<int32_t>& tokens, int32_t most, int32_t rows,
                         const StepCosts& costs, std::vector<int32_t>* drafts) {
  drafts->clear();
  if (most <= 0 || costs.CostOfMore(rows, 1) > credit_) {
    return;
  }
  const int32_t num_matching = proposer_.Propose(tokens, most, drafts);
  latest_kind_ = KindOf(num_matching);
  const auto found = static_cast<int32_t>(drafts->size());
  if (found > 0) {
    drafts->resize(BestCount(right_[latest_kind_], found, rows, costs));
  }
}

int32_t Speculator::BestCount(double probability, int32_t most, int32_t rows,
                              const StepCosts& costs) const {
  const bool tries = latest_was_right_ || num_steps_without_ >= kStepsBetweenTries;
  int32_t best = tries ? 1 : 0;
  double best_rate = kLeastRate;
  double tokens = rows;
  double chance = 1;
  for (int32_t count = 1; count <= most; ++count) {
    chance *= probability;
    tokens += chance;
    const double cost = costs.CostOfMore(rows, count);
    const double rate = tokens / (rows + cost);
    if (count > 1 && cost > kMostAtOnce * credit_) {
      break;
    }
    if (rate >= best_rate) {
      best = count;
      best_rate = rate;
    }
  }
  return best;
}

void Speculator::NoteStep(int32_t num_drafts, int32_t num_accepted, double draft_cost) {
  if (num_drafts == 0) {
    credit_ = std::min(credit_ + kEarnedByWaiting, kMaxCredit);
    ++num_steps_without_;
    return;
  }
  num_steps_without_ = 0;
  latest_was_right_ = num_accepted == num_drafts;
  credit_ = std::clamp(credit_ + num_accepted - draft_cost * num_drafts, -kMaxCredit, kMaxCredit);
  double& right = right_[latest_kind_];
  for (int32_t draft = 0; draft < std::min(num_accepted + 1, num_drafts); ++draft) {
    right += kNewest * ((draft < num_accepted ? 1 : 0) - right);
  }
}

}  // namespace mlc_server
