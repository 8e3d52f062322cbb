#include "sampling/sampler.h"

#include <cmath>
#include <numeric>

#include "base/check.h"
#include "random_rows.h"
#include "reference_sampler.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

using testing::kInf;
using testing::kNan;
using testing::MakeParams;
using testing::MakeRow;
using testing::ReferenceAdjusted;
using testing::ReferenceDraw;
using testing::RowShape;

SampleResult SampleOnce(const std::vector<float>& logits, const SamplingParams& params,
                        const std::vector<int32_t>& banned = {}) {
  return Sampler(static_cast<int32_t>(logits.size()))
      .Sample(logits.data(), params, {}, 0, 0, banned);
}

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0.0;
  return params;
}

TEST(GreedyTakesTheLowestIdAmongTheLargest) {
  for (int32_t size : {1, 15, 128, 129, 1000}) {
    for (int32_t first = 0; first < size; first += 1 + size / 7) {
      std::vector<float> logits(size, -1.0f);
      for (int32_t id = first; id < size; id += 3) {
        logits[id] = 4.0f;
      }
      EXPECT_EQ(SampleOnce(logits, Greedy()).token_id, first);
    }
  }
}

TEST(NanIsNeverDrawnAndInfinityCountsAsTheLargest) {
  EXPECT_EQ(SampleOnce({kNan, 1.0f, kNan, 2.0f}, Greedy()).token_id, 3);
  EXPECT_EQ(SampleOnce({-kInf, -1e30f, kNan}, Greedy()).token_id, 1);
  EXPECT_EQ(SampleOnce({1.0f, kInf, 3.0f, kInf}, Greedy()).token_id, 1);
  SamplingParams params;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    params.seed = seed;
    const int32_t drawn = SampleOnce({1.0f, kInf, kNan, kInf, -kInf}, params).token_id;
    EXPECT_TRUE(drawn == 1 || drawn == 3);
  }
}

TEST(NothingToDrawIsReported) {
  for (const double temperature : {0.0, 1.0}) {
    SamplingParams params;
    params.temperature = temperature;
    params.top_k = 2;
    params.top_p = 0.5;
    params.top_logprobs = 3;
    const std::vector<float> nothing = {kNan, -kInf, kNan};
    EXPECT_EQ(SampleOnce(nothing, params).status, SampleStatus::kNoCandidate);
    EXPECT_EQ(SampleOnce(nothing, params).token_id, -1);
    EXPECT_EQ(SampleOnce({1.0f, 2.0f}, params, {0, 1}).status, SampleStatus::kNoCandidate);
    EXPECT_EQ(SampleOnce({1.0f, 2.0f}, params, {1}).status, SampleStatus::kDrawn);
    EXPECT_EQ(SampleOnce({1.0f, 2.0f}, params, {1}).token_id, 0);
  }
}

TEST(BannedIdsOutsideTheVocabularyAreIgnored) {
  EXPECT_EQ(SampleOnce({1.0f, 2.0f}, Greedy(), {-1, 2, 1 << 30}).token_id, 1);
}

TEST(IdsOutsideTheVocabularyElsewhereAreABrokenInvariant) {
  SamplingParams params = Greedy();
  params.logit_bias = {{2, 1.0f}};
  EXPECT_THROW(SampleOnce({1.0f, 2.0f}, params), InvariantError);
  EXPECT_THROW(Sampler(0), InvariantError);
  EXPECT_THROW(Sampler(kMaxVocabulary + 1), InvariantError);
}

TEST(PenaltiesFollowTheirFormulas) {
  const std::vector<float> logits = {4.0f, 3.9f, -1.0f, -1.1f};
  const auto greedy = [&](SamplingParams params, const TokenCounts& counts) {
    params.temperature = 0.0;
    return Sampler(4).Sample(logits.data(), params, counts, 0, 0, {}).token_id;
  };
  SamplingParams repetition;
  repetition.repetition_penalty = 1.1;
  EXPECT_EQ(greedy(repetition, {{{0, 1}}, {}}), 1);        // 4 / 1.1 < 3.9
  EXPECT_EQ(greedy(repetition, {{}, {{0, 1}}}), 1);        // in the prompt counts as well
  EXPECT_EQ(greedy(repetition, {{{1, 9}}, {{0, 1}}}), 0);  // both: 4 / 1.1 > 3.9 / 1.1
  SamplingParams presence;
  presence.presence_penalty = 0.2;
  EXPECT_EQ(greedy(presence, {{{0, 5}}, {}}), 1);
  EXPECT_EQ(greedy(presence, {{}, {{0, 5}}}), 0);  // generated tokens only
  EXPECT_EQ(greedy(presence, {{{0, 5}, {1, 1}}, {}}), 0);
  SamplingParams frequency;
  frequency.frequency_penalty = 0.04;
  EXPECT_EQ(greedy(frequency, {{{0, 2}}, {}}), 0);  // 4 - 0.08 > 3.9
  EXPECT_EQ(greedy(frequency, {{{0, 3}}, {}}), 1);  // 4 - 0.12 < 3.9
}

TEST(NegativeLogitsArePenalizedByMultiplication) {
  const std::vector<float> logits = {-1.0f, -1.05f};
  SamplingParams params = Greedy();
  params.repetition_penalty = 1.1;
  EXPECT_EQ(Sampler(2).Sample(logits.data(), params, {{{0, 1}}, {}}, 0, 0, {}).token_id, 1);
}

TEST(BiasComesBeforePenalties) {
  // (1 + 4) / 2 = 2.5 < 3, but 1 / 2 + 4 would be above.
  const std::vector<float> logits = {1.0f, 3.0f};
  SamplingParams params = Greedy();
  params.logit_bias = {{0, 4.0f}};
  params.repetition_penalty = 2.0;
  EXPECT_EQ(Sampler(2).Sample(logits.data(), params, {{{0, 1}}, {}}, 0, 0, {}).token_id, 1);
}

TEST(LogitsAreLeftUnchanged) {
  std::mt19937 rng(4);
  const std::vector<float> logits = MakeRow(RowShape::kModel, 500, &rng);
  const std::vector<float> before = logits;
  SamplingParams params;
  params.logit_bias = {{3, 50.0f}};
  params.top_p = 0.5;
  params.top_logprobs = 5;
  SampleOnce(logits, params, {1, 2});
  EXPECT_EQ(logits, before);
}

// Random rows, options, counts and bans, one sampler for all: every draw is the one that sorting
// and walking the whole vocabulary gives, whatever was drawn before.
TEST(EveryDrawIsThatOfThePlainDefinition) {
  std::mt19937 rng(5);
  constexpr int32_t kSizes[] = {1, 7, 128, 300, 1000, 4000};
  std::vector<Sampler> samplers(std::begin(kSizes), std::end(kSizes));
  for (int round = 0; round < 12000; ++round) {
    const size_t which = rng() % samplers.size();
    const int32_t size = kSizes[which];
    const auto shape = static_cast<RowShape>(rng() % testing::kNumRowShapes);
    const std::vector<float> logits = MakeRow(shape, size, &rng);
    SamplingParams params = MakeParams(&rng);
    TokenCounts counts;
    std::vector<int32_t> banned;
    if (round % 2 == 0) {
      params.repetition_penalty = 1.0 + static_cast<double>(rng() % 3) / 4;
      params.presence_penalty = static_cast<double>(rng() % 3) - 1.0;
      params.frequency_penalty = static_cast<double>(rng() % 3) / 2 - 0.5;
      for (int i = 0; i < 5; ++i) {
        ++counts.generated[static_cast<int32_t>(rng() % size)];
        ++counts.prompt[static_cast<int32_t>(rng() % size)];
        banned.push_back(static_cast<int32_t>(rng() % size));
        params.logit_bias.emplace_back(rng() % size, static_cast<float>(rng() % 200) - 100.0f);
      }
    }
    const int32_t choice = round % 3;
    const SampleResult result =
        samplers[which].Sample(logits.data(), params, counts, choice, round, banned);
    const int32_t expected =
        ReferenceDraw(ReferenceAdjusted(logits, params, counts, banned), params, choice, round);
    EXPECT_EQ(result.token_id, expected);
    EXPECT_EQ(result.status, expected < 0 ? SampleStatus::kNoCandidate : SampleStatus::kDrawn);
  }
}

// ln(0.5) lies between two floats: the one below is dropped, the one above is kept.
TEST(MinPBoundIsNotRoundedDown) {
  const auto nearest = static_cast<float>(std::log(0.5));
  EXPECT_LT(static_cast<double>(nearest), std::log(0.5));
  const std::vector<float> logits = {0.0f, nearest, std::nextafter(nearest, 0.0f)};
  SamplingParams params;
  params.min_p = 0.5;
  std::vector<int> drawn(3, 0);
  for (params.seed = 0; params.seed < 200; ++params.seed) {
    ++drawn[SampleOnce(logits, params).token_id];
  }
  EXPECT_EQ(drawn[1], 0);
  EXPECT_GT(drawn[2], 0);
}

TEST(ChoiceSeedAndPositionEachChangeTheDraw) {
  const std::vector<float> logits(1000, 0.0f);
  Sampler sampler(1000);
  SamplingParams params;
  const int32_t base = sampler.Sample(logits.data(), params, {}, 0, 0, {}).token_id;
  EXPECT_EQ(sampler.Sample(logits.data(), params, {}, 0, 0, {}).token_id, base);
  EXPECT_NE(sampler.Sample(logits.data(), params, {}, 1, 0, {}).token_id, base);
  EXPECT_NE(sampler.Sample(logits.data(), params, {}, 0, 1, {}).token_id, base);
  params.seed = uint64_t{1} << 40;
  EXPECT_NE(sampler.Sample(logits.data(), params, {}, 0, 0, {}).token_id, base);
}

TEST(LogprobsAreOfTheRawDistribution) {
  std::mt19937 rng(6);
  for (const int32_t size : {3, 1000, 30000}) {
    const std::vector<float> logits = MakeRow(RowShape::kModel, size, &rng);
    SamplingParams params;
    params.temperature = 0.6;
    params.top_k = 2;
    params.logit_bias = {{1, 30.0f}};
    params.top_logprobs = 20;
    const SampleResult result = SampleOnce(logits, params, {0});
    double total = 0.0;
    for (const float logit : logits) {
      total += std::exp(static_cast<double>(logit));
    }
    std::vector<int32_t> ids(size);
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    const auto expect_logprob = [&](const TokenLogprob& got, int32_t id) {
      EXPECT_EQ(got.token_id, id);
      EXPECT_LT(std::abs(got.logprob - (logits[id] - std::log(total))), 2e-6);
    };
    expect_logprob(result.logprob, result.token_id);
    EXPECT_EQ(result.alternatives.size(), static_cast<size_t>(std::min(size, 20)));
    for (size_t i = 0; i < result.alternatives.size(); ++i) {
      expect_logprob(result.alternatives[i], ids[i]);
    }
  }
}

// Whatever token is asked about, the answer is what Sample() would have reported of it.
TEST(ScoresAreTheLogprobsOfADraw) {
  std::mt19937 random(3);
  for (const int32_t size : {1, 7, 128, 1000}) {
    const std::vector<float> row = MakeRow(RowShape::kModel, size, &random);
    Sampler sampler(size);
    for (int32_t id = 0; id < size; id += 1 + size / 20) {
      SamplingParams params = Greedy();
      params.top_logprobs = 4;
      params.logit_bias = {{id, 100.0f}};  // so that it is drawn
      const SampleResult drawn = sampler.Sample(row.data(), params, {}, 0, 0, {});
      EXPECT_EQ(drawn.token_id, id);
      const TokenLogprobs score = sampler.Score(row.data(), id, 4);
      EXPECT_EQ(score.token.token_id, id);
      EXPECT_EQ(score.token.logprob, drawn.logprob.logprob);
      EXPECT_EQ(score.alternatives.size(), drawn.alternatives.size());
      for (size_t rank = 0; rank < score.alternatives.size(); ++rank) {
        EXPECT_EQ(score.alternatives[rank].token_id, drawn.alternatives[rank].token_id);
        EXPECT_EQ(score.alternatives[rank].logprob, drawn.alternatives[rank].logprob);
      }
    }
  }
}

TEST(RanksCountTiesByLowerId) {
  const std::vector<float> row = {2.0f, 5.0f, 2.0f, 7.0f, 5.0f};
  Sampler sampler(5);
  std::vector<int32_t> ranks;
  for (int32_t id = 0; id < 5; ++id) {
    ranks.push_back(sampler.Score(row.data(), id, 0).rank);
  }
  EXPECT_EQ(ranks, (std::vector<int32_t>{4, 2, 5, 1, 3}));
  EXPECT_TRUE(sampler.Score(row.data(), 0, 0).alternatives.empty());
  EXPECT_THROW(sampler.Score(row.data(), 5, 0), InvariantError);
}

TEST(LogprobEdgeCases) {
  SamplingParams params = Greedy();
  EXPECT_TRUE(SampleOnce({0.0f, 0.0f}, params).alternatives.empty());
  params.top_logprobs = 0;
  const SampleResult chosen_only = SampleOnce({0.0f, 0.0f}, params);
  EXPECT_TRUE(chosen_only.alternatives.empty());
  EXPECT_EQ(chosen_only.logprob.token_id, 0);
  EXPECT_EQ(chosen_only.logprob.logprob, static_cast<float>(-std::log(2.0)));
  params.top_logprobs = 4;
  const SampleResult broken = SampleOnce({kNan, 0.0f, -1e30f, -kInf, 0.0f}, params);
  EXPECT_EQ(broken.alternatives.size(), size_t{3});
  EXPECT_EQ(broken.alternatives[0].token_id, 1);
  EXPECT_EQ(broken.alternatives[1].token_id, 4);
  EXPECT_EQ(broken.alternatives[2].token_id, 2);
  EXPECT_EQ(broken.alternatives[2].logprob, -9999.0f);
}

}  // namespace
}  // namespace mlc_server
