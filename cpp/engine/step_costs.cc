#include "engine/step_costs.h"

#include <algorithm>

#include "base/check.h"

namespace mlc_server {
namespace {

// What each further row costs while nothing is known.
constexpr double kGuessedRowCost = 0.3;
// The weight of the newest step. One that took far longer was interrupted, and counts as so long.
constexpr double kNewest = 0.125;
constexpr double kMostTimesLonger = 2;

}  // namespace

StepCosts::StepCosts(int32_t rows_max) : by_rows_(static_cast<size_t>(rows_max) + 1) {
  for (int32_t rows = 1; rows <= rows_max; ++rows) {
    by_rows_[rows].cost = 1 + kGuessedRowCost * (rows - 1);
  }
}

void StepCosts::Note(int32_t rows, int64_t step_ns) {
  if (rows < 1 || static_cast<size_t>(rows) >= by_rows_.size() || step_ns <= 0) {
    return;
  }
  Entry& entry = by_rows_[rows];
  auto taken_ns = static_cast<double>(step_ns);
  if (one_row_ns_ == 0) {
    one_row_ns_ = taken_ns / entry.cost;
  }
  const double expected_ns = one_row_ns_ * entry.cost;
  if (entry.is_known) {
    taken_ns = std::min(taken_ns, kMostTimesLonger * expected_ns);
  }
  if (rows > 1) {
    const double weight = entry.is_known ? kNewest : 1;
    entry.cost += weight * (taken_ns / one_row_ns_ - entry.cost);
  }
  if (rows == 1 || entry.is_known) {
    // Contexts grow and the machine changes its pace: all costs move together.
    one_row_ns_ *= 1 + kNewest * (taken_ns / expected_ns - 1);
  }
  entry.is_known = true;
}

double StepCosts::Cost(int32_t rows) const {
  MLC_CHECK(rows >= 1 && static_cast<size_t>(rows) < by_rows_.size()) << rows << " rows";
  double cost = 0;
  for (int32_t fewer = 1; fewer <= rows; ++fewer) {
    cost = std::max(cost, by_rows_[fewer].cost);
  }
  return cost;
}

double StepCosts::CostOfMore(int32_t rows, int32_t added) const {
  return rows * (Cost(rows + added) / Cost(rows) - 1);
}

}  // namespace mlc_server
