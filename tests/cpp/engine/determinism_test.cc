// The same request gives the same output whatever else runs, in whatever order, however the
// prompts are cut and however often sequences are preempted.

#include <algorithm>
#include <random>

#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

constexpr int32_t kNumRequests = 1000;

// Each request alone in the engine, one after the other.
const Outcomes& ReferenceOutcomes() {
  static const Outcomes* reference = [] {
    Harness harness;
    for (const Request& request : RandomRequests(7, kNumRequests)) {
      harness.Submit(request);
      harness.RunToEnd();
      harness.ExpectIdle();
    }
    return new Outcomes(harness.outcomes());
  }();
  return *reference;
}

void ExpectReference(const Outcomes& outcomes) {
  const Outcomes& reference = ReferenceOutcomes();
  EXPECT_EQ(outcomes.size(), reference.size());
  for (const auto& [key, outcome] : outcomes) {
    const auto found = reference.find(key);
    EXPECT_TRUE(found != reference.end());
    EXPECT_EQ(outcome, found->second);
  }
}

void RunAllAtOnce(Harness* harness, const std::vector<Request>& requests) {
  for (const Request& request : requests) {
    harness->Submit(request);
  }
  harness->RunToEnd();
  harness->ExpectIdle();
  ExpectReference(harness->outcomes());
}

TEST(ReferenceHasEveryKindOfEnd) {
  int32_t stop = 0, stop_id = 0, stop_string = 0, length = 0, context_full = 0, scored = 0;
  for (const auto& [key, outcome] : ReferenceOutcomes()) {
    EXPECT_EQ(outcome.num_ends, 1);
    EXPECT_NE(outcome.finish_reason, FinishReason::kError);
    stop_id += outcome.stop_token_id >= 0 ? 1 : 0;
    stop_string += outcome.stop_string.empty() ? 0 : 1;
    stop += outcome.finish_reason == FinishReason::kStop ? 1 : 0;
    length += outcome.finish_reason == FinishReason::kLength ? 1 : 0;
    scored += outcome.prompt_logprobs.empty() ? 0 : 1;
    context_full += outcome.prompt_tokens + outcome.completion_tokens == 128 ? 1 : 0;
  }
  EXPECT_GT(stop_id, 20);
  EXPECT_GT(stop_string, 20);
  EXPECT_GT(stop - stop_id - stop_string, 20);  // EOS
  EXPECT_GT(length, 20);
  EXPECT_GT(context_full, 10);
  EXPECT_GT(scored, 200);
}

TEST(AllAtOnceEqualsAlone) {
  Harness harness;
  RunAllAtOnce(&harness, RandomRequests(7, kNumRequests));
  EXPECT_EQ(harness.engine().Stats().preemptions, 0);
}

TEST(ShuffledEqualsAlone) {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    std::vector<Request> requests = RandomRequests(7, kNumRequests);
    std::shuffle(requests.begin(), requests.end(), std::mt19937_64(seed));
    Harness harness;
    RunAllAtOnce(&harness, requests);
  }
}

TEST(TinyPrefillChunksEqualWholePrompts) {
  for (const int32_t chunk : {1, 2, 3, 5, 17}) {
    EngineConfig config = SmallConfig();
    config.prefill_chunk_size = chunk;
    Harness harness(config);
    RunAllAtOnce(&harness, RandomRequests(7, kNumRequests));
  }
}

TEST(FewScoredRowsEqualMany) {
  for (const int32_t rows : {1, 3, 16}) {
    EngineConfig config = SmallConfig();
    config.scored_rows_max = rows;
    Harness harness(config);
    RunAllAtOnce(&harness, RandomRequests(7, kNumRequests));
  }
}

TEST(PreemptionChangesNothing) {
  for (const int32_t num_pages : {32, 40, 64}) {  // 32 pages: one full context
    EngineConfig config = SmallConfig();
    config.num_pages = num_pages;
    config.scored_rows_max = 8;
    Harness harness(config);
    RunAllAtOnce(&harness, RandomRequests(7, kNumRequests));
    EXPECT_GT(harness.engine().Stats().preemptions, 50);
  }
}

TEST(AllocationFaultsChangeNothing) {
  EngineConfig config = SmallConfig();
  config.num_pages = 64;
  Harness harness(config);
  std::mt19937_64 random(3);
  harness.engine().page_pool()->SetAllocationFault([&](int32_t) { return random() % 8 == 0; });
  RunAllAtOnce(&harness, RandomRequests(7, kNumRequests));
}

TEST(ArrivalsAndCancellationsOfOthersChangeNothing) {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    std::mt19937_64 random(seed);
    EngineConfig config = SmallConfig();
    config.num_pages = 80;
    Harness harness(config);
    for (Request request : RandomRequests(7, kNumRequests)) {
      harness.Submit(request);
      request.id += 1'000'000;  // a twin that is cancelled at some time, perhaps before it runs
      harness.Submit(request);
      for (uint64_t steps = random() % 4; steps > 0; --steps) {
        harness.Step();
      }
      harness.engine().Cancel(request.id - random() % 20);
    }
    harness.RunToEnd();
    harness.ExpectIdle();
    Outcomes kept, twins;
    for (const auto& [key, outcome] : harness.outcomes()) {
      (key.first < 1'000'000 ? kept : twins)[key] = outcome;
    }
    ExpectReference(kept);
    const auto cancelled = std::count_if(twins.begin(), twins.end(), [](const auto& twin) {
      return twin.second.finish_reason == FinishReason::kCancelled;
    });
    EXPECT_GT(cancelled, 100);
  }
}

}  // namespace
}  // namespace mlc_server::testing
