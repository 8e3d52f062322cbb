// What the draws look like from outside: chi-squared tests against distributions worked out from
// the textbook formulas. Seeds are fixed, so a pass is a pass for ever.

#include <algorithm>
#include <cmath>

#include "sampling/sampler.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

constexpr int kDraws = 60000;
// Probabilities of the plain distribution at temperature 1; the logits are their logarithms.
const std::vector<double> kProbabilities = {0.05, 0.3, 0.01, 0.2, 0.04, 0.15, 0.1, 0.15};

// The 99.99 % point of chi-squared, by the Wilson-Hilferty approximation.
double ChiSquaredLimit(int degrees) {
  const double a = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1.0 - a + 3.72 * std::sqrt(a), 3);
}

// Draws kDraws times and compares with `weights`, which need not be normalised. A weight of 0 is a
// token that must never be drawn.
void ExpectDistribution(const SamplingParams& params, const std::vector<double>& weights,
                        const TokenCounts& counts = {}, const std::vector<int32_t>& banned = {}) {
  std::vector<float> logits;
  for (const double probability : kProbabilities) {
    logits.push_back(static_cast<float>(std::log(probability)));
  }
  Sampler sampler(static_cast<int32_t>(logits.size()));
  std::vector<int> drawn(logits.size(), 0);
  for (int position = 0; position < kDraws; ++position) {
    ++drawn[sampler.Sample(logits.data(), params, counts, 0, position, banned).token_id];
  }
  double total = 0.0;
  for (const double weight : weights) {
    total += weight;
  }
  double chi_squared = 0.0;
  int degrees = -1;
  for (size_t id = 0; id < weights.size(); ++id) {
    const double expected = kDraws * weights[id] / total;
    if (weights[id] == 0.0) {
      EXPECT_EQ(drawn[id], 0);
      continue;
    }
    chi_squared += (drawn[id] - expected) * (drawn[id] - expected) / expected;
    ++degrees;
  }
  EXPECT_LT(chi_squared, ChiSquaredLimit(std::max(degrees, 1)));
}

// kProbabilities with those below `lowest` taken out.
std::vector<double> AtLeast(double lowest) {
  std::vector<double> weights = kProbabilities;
  for (double& weight : weights) {
    weight = weight < lowest ? 0.0 : weight;
  }
  return weights;
}

SamplingParams Seeded(uint64_t seed) {
  SamplingParams params;
  params.seed = seed;
  return params;
}

TEST(PlainDrawsFollowTheModel) { ExpectDistribution(Seeded(1), kProbabilities); }

TEST(TemperatureRaisesProbabilitiesToAPower) {
  for (const double temperature : {0.25, 0.5, 1.5, 2.0}) {
    SamplingParams params = Seeded(2);
    params.temperature = temperature;
    std::vector<double> weights;
    for (const double probability : kProbabilities) {
      weights.push_back(std::pow(probability, 1.0 / temperature));
    }
    ExpectDistribution(params, weights);
  }
}

TEST(TopKKeepsTheKMostLikely) {
  SamplingParams params = Seeded(3);
  params.top_k = 2;
  ExpectDistribution(params, AtLeast(0.2));
  params.top_k = 4;
  ExpectDistribution(params, AtLeast(0.15));
  params.top_k = 3;  // ids 5 and 7 tie for the third place: the lower id has it
  std::vector<double> weights = AtLeast(0.15);
  weights[7] = 0.0;
  ExpectDistribution(params, weights);
}

TEST(TopPKeepsTheSmallestSetThatReachesIt) {
  SamplingParams params = Seeded(4);
  params.top_p = 0.49;  // 0.3 + 0.2 reaches it
  ExpectDistribution(params, AtLeast(0.2));
  params.top_p = 0.79;  // 0.3 + 0.2 + 0.15 + 0.15 does
  ExpectDistribution(params, AtLeast(0.15));
  params.top_p = 0.97;
  ExpectDistribution(params, AtLeast(0.04));
  params.top_p = 0.01;
  ExpectDistribution(params, AtLeast(0.3));
}

TEST(MinPDropsTheRelativelyUnlikely) {
  SamplingParams params = Seeded(5);
  params.min_p = 0.4;  // of 0.3: 0.12
  ExpectDistribution(params, AtLeast(0.12));
  params.min_p = 0.1;
  ExpectDistribution(params, AtLeast(0.03));
  params.min_p = 1.0;
  ExpectDistribution(params, AtLeast(0.3));
}

TEST(MinPComesAfterTemperature) {
  SamplingParams params = Seeded(6);
  params.temperature = 2.0;
  params.min_p = 0.4;  // (p / 0.3) ^ (1 / 2) >= 0.4 where p >= 0.048
  std::vector<double> weights = AtLeast(0.048);
  for (double& weight : weights) {
    weight = std::sqrt(weight);
  }
  ExpectDistribution(params, weights);
}

TEST(TopPIsOfWhatTopKLeft) {
  SamplingParams params = Seeded(7);
  params.top_k = 4;    // 0.3, 0.2, 0.15, 0.15: together 0.8
  params.top_p = 0.8;  // of 0.8: 0.64, reached by the first three; of the whole it would take four
  std::vector<double> weights = AtLeast(0.15);
  weights[7] = 0.0;
  ExpectDistribution(params, weights);
}

TEST(BiasMultipliesProbabilities) {
  SamplingParams params = Seeded(8);
  params.logit_bias = {{2, 3.0f}, {1, -1.0f}, {0, -100.0f}, {2, -1.0f}};
  std::vector<double> weights = kProbabilities;
  weights[2] *= std::exp(2.0);
  weights[1] *= std::exp(-1.0);
  weights[0] = 0.0;
  ExpectDistribution(params, weights);
}

TEST(PresenceAndFrequencyPenaltiesDivideProbabilities) {
  SamplingParams params = Seeded(9);
  params.presence_penalty = 0.5;
  params.frequency_penalty = 0.25;
  TokenCounts counts;
  counts.generated = {{1, 4}, {3, 1}};
  counts.prompt = {{5, 3}};
  std::vector<double> weights = kProbabilities;
  weights[1] *= std::exp(-0.5 - 4 * 0.25);
  weights[3] *= std::exp(-0.5 - 0.25);
  ExpectDistribution(params, weights, counts);
}

// Logits here are logarithms of probabilities, hence negative: the penalty is a power.
TEST(RepetitionPenaltyIsAPowerOfAProbability) {
  SamplingParams params = Seeded(10);
  params.repetition_penalty = 1.3;
  TokenCounts counts;
  counts.generated = {{1, 4}, {5, 1}};
  counts.prompt = {{5, 2}, {6, 1}};
  std::vector<double> weights = kProbabilities;
  for (const int id : {1, 5, 6}) {
    weights[id] = std::pow(weights[id], 1.3);
  }
  ExpectDistribution(params, weights, counts);
}

TEST(BannedTokensAreLeftOut) {
  std::vector<double> weights = kProbabilities;
  weights[1] = weights[7] = 0.0;
  ExpectDistribution(Seeded(11), weights, {}, {1, 7});
}

// A vocabulary's worth of equal logits: draws spread evenly over blocks and within them.
TEST(LargeVocabularyIsDrawnFromEvenly) {
  constexpr int32_t kVocabulary = 49157;
  constexpr int kBins = 64;
  const std::vector<float> logits(kVocabulary, 1.0f);
  Sampler sampler(kVocabulary);
  SamplingParams params = Seeded(12);
  params.temperature = 1.3;
  std::vector<int> by_range(kBins, 0);
  std::vector<int> by_remainder(kBins, 0);
  constexpr int kFewerDraws = 6400;
  for (int position = 0; position < kFewerDraws; ++position) {
    const int32_t id = sampler.Sample(logits.data(), params, {}, 0, position, {}).token_id;
    ++by_range[static_cast<int64_t>(id) * kBins / kVocabulary];
    ++by_remainder[id % kBins];
  }
  for (const std::vector<int>& bins : {by_range, by_remainder}) {
    double chi_squared = 0.0;
    constexpr double kExpected = static_cast<double>(kFewerDraws) / kBins;
    for (const int count : bins) {
      chi_squared += (count - kExpected) * (count - kExpected) / kExpected;
    }
    EXPECT_LT(chi_squared, ChiSquaredLimit(kBins - 1));
  }
}

}  // namespace
}  // namespace mlc_server
