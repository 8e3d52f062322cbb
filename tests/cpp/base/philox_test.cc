#include "base/philox.h"

#include <set>

#include "support/cpp_test.h"

namespace mlc_server {
namespace {

std::vector<uint32_t> Words(const PhiloxBlock& block) { return {block.begin(), block.end()}; }

// The philox4x32 10 lines of the kat_vectors file that the paper's authors publish (Random123).
TEST(PhiloxMatchesPublishedVectors) {
  EXPECT_EQ(Words(Philox4x32({0, 0, 0, 0}, {0, 0})),
            (std::vector<uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(
      Words(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff})),
      (std::vector<uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      Words(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0})),
      (std::vector<uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxUniformUsesTheHighBitsOfTheFirstTwoWords) {
  // 0x6627e8d5e169c58d >> 11, over 2^53.
  EXPECT_EQ(PhiloxUniform(0, 0, 0), static_cast<double>(0x6627e8d5e169c58dULL >> 11) / 0x1p53);
}

TEST(PhiloxUniformDependsOnEveryArgument) {
  std::set<double> values;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
    for (uint32_t choice : {0u, 1u}) {
      for (uint32_t position : {0u, 1u}) {
        for (uint32_t draw : {0u, 1u}) {
          values.insert(PhiloxUniform(seed, choice, position, draw));
        }
      }
    }
  }
  EXPECT_EQ(values.size(), size_t{24});
}

// 16 equal bins of 160,000 draws: chi-squared with 15 degrees of freedom stays below its 99.99 %
// point. The draws are fixed, so this cannot flake.
TEST(PhiloxUniformIsUniform) {
  constexpr int kBins = 16;
  constexpr int kDraws = 160000;
  std::vector<int> counts(kBins, 0);
  for (uint32_t position = 0; position < kDraws; ++position) {
    const double value = PhiloxUniform(42, 3, position);
    EXPECT_GE(value, 0.0);
    EXPECT_LT(value, 1.0);
    ++counts[static_cast<int>(value * kBins)];
  }
  const double expected = static_cast<double>(kDraws) / kBins;
  double chi_squared = 0.0;
  for (int count : counts) {
    chi_squared += (count - expected) * (count - expected) / expected;
  }
  EXPECT_LT(chi_squared, 44.3);
}

}  // namespace
}  // namespace mlc_server
