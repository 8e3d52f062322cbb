// Costs of steps are learned, and follow what changes.

#include "engine/step_costs.h"

#include <cmath>
#include <random>

#include "base/check.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

void ExpectNear(double value, double expected, double tolerance = 0.05) {
  EXPECT_LT(std::abs(value - expected), tolerance * expected);
}

TEST(CostsAreGuessedBeforeAnyStep) {
  const StepCosts costs(8);
  EXPECT_EQ(costs.Cost(1), 1);
  for (int32_t rows = 2; rows <= 8; ++rows) {
    EXPECT_GT(costs.Cost(rows), costs.Cost(rows - 1));
  }
  EXPECT_THROW(costs.Cost(9), InvariantError);
  EXPECT_THROW(costs.Cost(0), InvariantError);
}

TEST(StepsTeachCosts) {
  StepCosts costs(8);
  costs.Note(8, 4'000'000);
  costs.Note(1, 1'000'000);
  for (int32_t i = 0; i < 50; ++i) {
    costs.Note(1, 1'000'000);
    costs.Note(8, 4'000'000);
    costs.Note(2, 1'200'000);
  }
  ExpectNear(costs.Cost(8), 4);
  ExpectNear(costs.Cost(2), 1.2);
  ExpectNear(costs.CostOfMore(1, 7), 3, 0.1);
  ExpectNear(costs.CostOfMore(2, 6), 2 * (4 / 1.2 - 1));
}

TEST(MoreRowsNeverCostLess) {
  StepCosts costs(4);
  for (int32_t i = 0; i < 20; ++i) {
    costs.Note(1, 1'000'000);
    costs.Note(2, 1'500'000);
    costs.Note(3, 1'200'000);
  }
  EXPECT_EQ(costs.Cost(3), costs.Cost(2));
  EXPECT_EQ(costs.CostOfMore(2, 1), 0);
}

TEST(InterruptedStepsCountLittleAndUselessOnesNothing) {
  StepCosts costs(4);
  std::mt19937_64 random(1);
  for (int32_t i = 0; i < 400; ++i) {
    const int64_t times = random() % 20 == 0 ? 50 : 1;
    costs.Note(1, 1'000'000 * times);
    costs.Note(4, 2'000'000);
    costs.Note(5, 1);
    costs.Note(0, 1);
    costs.Note(4, 0);
  }
  ExpectNear(costs.Cost(4), 2, 0.25);
}

TEST(CostsFollowTheMachinesPace) {
  // Twice as slow from now on, for steps of one row alone: the others are taken to be, too.
  StepCosts costs(4);
  for (int32_t i = 0; i < 100; ++i) {
    costs.Note(1, 1'000'000);
    costs.Note(4, 2'000'000);
  }
  for (int32_t i = 0; i < 100; ++i) {
    costs.Note(1, 2'000'000);
  }
  ExpectNear(costs.Cost(4), 2);
}

}  // namespace
}  // namespace mlc_server::testing
