#include "sampling/vector_passes.h"

#include <cmath>
#include <cstring>

#include "random_rows.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

using testing::kInf;
using testing::kNan;
using testing::MakeRow;
using testing::RowShape;

int32_t NumBlocks(int32_t count) { return (count + kLogitBlock - 1) / kLogitBlock; }

TEST(WeightIsTheRoundedExponential) {
  constexpr double kStep = 0x1p-34;
  for (double exponent = 0.0; exponent > -40.0; exponent -= 1e-4) {
    const auto logit = static_cast<float>(exponent);
    const double weight = TokenWeight(logit, {0.0f, 1.0f});
    EXPECT_EQ(weight, std::round(weight / kStep) * kStep);
    const double exact = std::exp(static_cast<double>(logit));
    EXPECT_LE(std::abs(weight - exact), 2e-7 * exact + kStep);
  }
}

TEST(WeightAppliesScaleAndIgnoresNan) {
  EXPECT_EQ(TokenWeight(5.0f, {5.0f, 0.7f}), 1.0);
  EXPECT_EQ(TokenWeight(3.0f, {5.0f, 2.0f}), TokenWeight(-4.0f, {0.0f, 1.0f}));
  for (const float logit : {kNan, -kInf, -1e30f, -std::numeric_limits<float>::max()}) {
    EXPECT_EQ(TokenWeight(logit, {5.0f, 1.0f}), 0.0);
    EXPECT_EQ(TokenWeight(logit, {std::numeric_limits<float>::max(), 1e5f}), 0.0);
  }
}

TEST(CutOrdersByLogitThenId) {
  const Cut cut{1.0f, 7};
  EXPECT_TRUE(cut.Keeps(2.0f, 100));
  EXPECT_TRUE(cut.Keeps(1.0f, 7));
  EXPECT_FALSE(cut.Keeps(1.0f, 8));
  EXPECT_FALSE(cut.Keeps(0.5f, 0));
  EXPECT_FALSE(cut.Keeps(kNan, 0));
  EXPECT_TRUE(Cut().Keeps(-1e30f, 1 << 30));
}

// Compares every implementation with sums and maxima taken one logit at a time, bit for bit.
TEST(AllPassesGiveTheBitsOfTheScalarDefinition) {
  std::mt19937 rng(3);
  for (int round = 0; round < 600; ++round) {
    const auto shape = static_cast<RowShape>(round % testing::kNumRowShapes);
    const int32_t count = 1 + static_cast<int32_t>(rng() % (round % 10 == 0 ? 5000 : 400));
    std::vector<float> row = MakeRow(shape, count, &rng);
    for (float& logit : row) {
      logit = logit == kInf ? 40.0f : logit;  // BlockedLogits clamps it before
    }
    std::vector<float> maxima(NumBlocks(count), -kInf);
    float highest = -kInf;
    for (int32_t id = 0; id < count; ++id) {
      float& maximum = maxima[id / kLogitBlock];
      maximum = row[id] > maximum ? row[id] : maximum;
      highest = row[id] > highest ? row[id] : highest;
    }
    const WeightScale scale{highest > -kInf ? highest : 0.0f, rng() % 2 == 0 ? 1.0f : 1.7f};
    const int32_t pivot = static_cast<int32_t>(rng() % count);
    const Cut cut = rng() % 3 == 0 || std::isnan(row[pivot]) ? Cut() : Cut{row[pivot], pivot};
    std::vector<double> masses(NumBlocks(count), 0.0);
    double total = 0.0;
    for (int32_t id = 0; id < count; ++id) {
      const double weight = cut.Keeps(row[id], id) ? TokenWeight(row[id], scale) : 0.0;
      masses[id / kLogitBlock] += weight;
      total += weight;
    }
    for (const VectorPasses& passes : AvailableVectorPasses()) {
      std::vector<float> got_maxima(maxima.size(), kNan);
      std::vector<double> got_masses(masses.size(), kNan);
      passes.block_maxima(row.data(), count, got_maxima.data());
      EXPECT_EQ(got_maxima, maxima);
      EXPECT_EQ(
          passes.block_masses(row.data(), count, maxima.data(), cut, scale, got_masses.data()),
          total);
      EXPECT_EQ(got_masses, masses);
    }
  }
}

}  // namespace
}  // namespace mlc_server
