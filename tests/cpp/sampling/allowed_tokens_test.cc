// Draws from a part of the vocabulary, as a grammar asks for.

#include <cmath>
#include <random>
#include <vector>

#include "random_rows.h"
#include "sampling/sampler.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

using testing::kInf;

std::vector<uint32_t> MaskOf(const std::vector<bool>& allowed) {
  std::vector<uint32_t> mask((allowed.size() + 31) / 32, 0);
  for (size_t id = 0; id < allowed.size(); ++id) {
    mask[id / 32] |= static_cast<uint32_t>(allowed[id]) << (id % 32);
  }
  return mask;
}

TEST(DrawsEqualThoseOfARowWithoutTheOthers) {
  std::mt19937_64 random(11);
  for (int32_t trial = 0; trial < 200; ++trial) {
    const int32_t size = 1 + static_cast<int32_t>(random() % 300);
    std::vector<float> logits(size);
    std::vector<bool> allowed(size);
    const uint64_t sparsity = 1 + random() % 40;  // 1: all are allowed
    for (int32_t id = 0; id < size; ++id) {
      logits[id] = static_cast<float>(random() % 1000) / 100.0f;
      allowed[id] = random() % sparsity == 0;
    }
    allowed[random() % size] = true;
    std::vector<float> masked = logits;
    for (int32_t id = 0; id < size; ++id) {
      masked[id] = allowed[id] ? logits[id] : -kInf;
    }
    SamplingParams params;
    params.seed = random();
    params.temperature = trial % 3 == 0 ? 0.0 : 0.8;
    params.top_p = trial % 2 == 0 ? 1.0 : 0.7;
    const std::vector<uint32_t> mask = MaskOf(allowed);
    Sampler sampler(size);
    const int32_t drawn = sampler.Sample(logits.data(), params, {}, 0, 3, {}, mask.data()).token_id;
    EXPECT_EQ(drawn, sampler.Sample(masked.data(), params, {}, 0, 3, {}).token_id);
    EXPECT_TRUE(allowed[drawn]);
  }
}

TEST(LogprobsAreThoseOfTheRawRow) {
  const std::vector<float> logits = {3.0f, 1.0f, 2.0f};
  SamplingParams params;
  params.temperature = 0.0;
  params.top_logprobs = 2;
  const std::vector<uint32_t> only_one = MaskOf({false, true, false});
  Sampler sampler(3);
  const SampleResult free = sampler.Sample(logits.data(), params, {}, 0, 0, {});
  const SampleResult forced = sampler.Sample(logits.data(), params, {}, 0, 0, {}, only_one.data());
  EXPECT_EQ(forced.token_id, 1);
  EXPECT_EQ(forced.alternatives[0].token_id, 0);
  EXPECT_EQ(forced.alternatives[0].logprob, free.logprob.logprob);
  EXPECT_TRUE(std::abs(forced.logprob.logprob - (free.logprob.logprob - 2.0f)) < 1e-5f);
}

TEST(NothingAllowedIsReported) {
  const std::vector<float> logits(40, 1.0f);
  const std::vector<uint32_t> none(2, 0);
  const SampleResult result = Sampler(40).Sample(logits.data(), {}, {}, 0, 0, {}, none.data());
  EXPECT_EQ(result.status, SampleStatus::kNoCandidate);
  // What is banned is not drawn because it is allowed.
  const std::vector<uint32_t> one = {1u << 7, 0};
  EXPECT_EQ(Sampler(40).Sample(logits.data(), {}, {}, 0, 0, {7}, one.data()).status,
            SampleStatus::kNoCandidate);
}

}  // namespace
}  // namespace mlc_server
