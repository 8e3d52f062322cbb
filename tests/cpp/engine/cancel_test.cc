// A cancelled request gives its pages back within the next step, wherever it stands.

#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

using StepOutcome = Engine::StepOutcome;

Request LongRequest(RequestId id, int32_t num_choices) {
  Request request = GreedyRequest(id, std::vector<int32_t>(30, 20 + static_cast<int32_t>(id)), 20);
  request.num_choices = num_choices;
  return request;
}

EngineConfig ChunkedConfig() {
  EngineConfig config = SmallConfig();
  config.prefill_chunk_size = 8;  // prompts take several steps
  config.num_pages = 64;
  return config;
}

// How many steps LongRequest(1, num_choices) takes alone.
int32_t StepsAlone(int32_t num_choices) {
  Harness harness(ChunkedConfig());
  harness.Submit(LongRequest(1, num_choices));
  int32_t steps = 0;
  while (harness.Step() == StepOutcome::kRan) {
    ++steps;
  }
  return steps;
}

TEST(CancelAtEveryStepFreesThePagesInTheNext) {
  for (const int32_t num_choices : {1, 3}) {
    const int32_t num_steps = StepsAlone(num_choices);
    EXPECT_GT(num_steps, 20);
    for (int32_t cancel_at = 0; cancel_at <= num_steps; ++cancel_at) {
      Harness harness(ChunkedConfig());
      harness.Submit(LongRequest(1, num_choices));
      for (int32_t step = 0; step < cancel_at; ++step) {
        EXPECT_EQ(harness.Step(), StepOutcome::kRan);
      }
      harness.engine().Cancel(1);
      EXPECT_EQ(harness.Step(), StepOutcome::kIdle);
      harness.ExpectIdle();
      int32_t num_cancelled = 0;
      for (int32_t choice = 0; choice < num_choices; ++choice) {
        const Outcome& outcome = harness.outcome(1, choice);
        EXPECT_EQ(outcome.num_ends, 1);
        num_cancelled += outcome.finish_reason == FinishReason::kCancelled ? 1 : 0;
      }
      // The choices end at different steps; at the last step all but the last have.
      EXPECT_TRUE(cancel_at == num_steps ? num_cancelled == 0 : num_cancelled > 0);
      EXPECT_TRUE(cancel_at >= 10 || num_cancelled == num_choices);
    }
  }
}

TEST(CancelLeavesOthersAlone) {
  Harness alone(ChunkedConfig());
  alone.Submit(LongRequest(2, 2));
  alone.RunToEnd();
  for (int32_t cancel_at = 0; cancel_at < 23; ++cancel_at) {
    Harness harness(ChunkedConfig());
    harness.Submit(LongRequest(1, 2));
    harness.Submit(LongRequest(2, 2));
    for (int32_t step = 0; step < cancel_at; ++step) {
      harness.Step();
    }
    harness.engine().Cancel(1);
    harness.RunToEnd();
    harness.ExpectIdle();
    EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kCancelled);
    EXPECT_EQ(harness.outcome(2, 0), alone.outcome(2, 0));
    EXPECT_EQ(harness.outcome(2, 1), alone.outcome(2, 1));
  }
}

TEST(CancelWhileWaitingEndsWithoutRunning) {
  EngineConfig config = ChunkedConfig();
  config.max_batch_size = 1;
  Harness harness(config);
  harness.Submit(LongRequest(1, 1));
  harness.Submit(LongRequest(2, 1));
  harness.Step();
  EXPECT_EQ(harness.engine().Stats().num_waiting, 1);
  harness.engine().Cancel(2);
  harness.Step();
  EXPECT_EQ(harness.outcome(2).finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(harness.outcome(2).completion_tokens, 0);
  EXPECT_EQ(harness.engine().Stats().num_waiting, 0);
  harness.RunToEnd();
  EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kLength);
}

TEST(CancelOfUnknownFinishedOrCancelledIdsIsIgnored) {
  Harness harness;
  harness.engine().Cancel(42);
  harness.Submit(LongRequest(1, 1));
  harness.engine().Cancel(1);
  harness.engine().Cancel(1);
  harness.RunToEnd();
  harness.engine().Cancel(1);
  harness.RunToEnd();
  harness.ExpectIdle();
  EXPECT_EQ(harness.outcomes().size(), size_t{1});
  EXPECT_EQ(harness.engine().Stats().finished_cancelled, 1);
}

TEST(ACancelledIdMayBeUsedAgain) {
  Harness harness;
  harness.Submit(LongRequest(1, 1));
  EXPECT_EQ(harness.engine().Submit(LongRequest(1, 1))->param, "request_id");
  harness.Step();
  harness.engine().Cancel(1);
  EXPECT_EQ(harness.engine().Submit(LongRequest(1, 1))->param, "request_id");  // not ended yet
  EXPECT_EQ(harness.engine().Step(), StepOutcome::kIdle);
  EXPECT_FALSE(harness.engine().Submit(LongRequest(1, 1)).has_value());
  // A cancellation belongs to the request that was open when it came, not to its successor.
  harness.engine().Step();
  const std::vector<OutputItem> items = harness.engine().Drain();
  EXPECT_EQ(items.size(), size_t{2});
  EXPECT_EQ(items[0].finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(items[1].finish_reason, FinishReason::kNone);
}

}  // namespace
}  // namespace mlc_server::testing
