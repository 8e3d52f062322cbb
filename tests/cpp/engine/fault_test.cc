// What goes wrong for one request ends that request; what goes wrong for the engine ends it, and
// everybody is told.

#include <cstdlib>
#include <limits>
#include <new>
#include <stdexcept>

#include "harness.h"
#include "support/cpp_test.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MLC_SERVER_SANITIZED 1
#else
#define MLC_SERVER_SANITIZED 0
#endif

namespace mlc_server::testing {
namespace {

// Allocations until one fails, once; -1 is never. Only the test's own thread runs then.
int64_t allocations_until_failure = -1;

}  // namespace
}  // namespace mlc_server::testing

#if !MLC_SERVER_SANITIZED
void* operator new(std::size_t size) {
  int64_t& countdown = mlc_server::testing::allocations_until_failure;
  if (countdown >= 0 && countdown-- == 0) {
    throw std::bad_alloc();
  }
  void* memory = std::malloc(size);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace mlc_server::testing {
namespace {

using StepOutcome = Engine::StepOutcome;

std::vector<Request> Mixed() {
  std::vector<Request> requests = RandomRequests(11, 12);
  requests[3].num_choices = 3;
  // Each ends with the prompt that the next one takes over.
  requests[5].num_choices = 3;
  requests[5].sampling.max_tokens = 1;
  return requests;
}

TEST(PoisonedRequestEndsAloneWithError) {
  Harness quiet;
  Harness harness;
  for (const Request& request : RandomRequests(5, 200)) {
    quiet.Submit(request);
    harness.Submit(request);
    if (request.id % 3 == 0) {
      Request poisoned = request;
      poisoned.id += 1000;
      poisoned.num_choices = 2;
      poisoned.prompt_ids.push_back(kPoison);
      harness.Submit(poisoned);
    }
  }
  quiet.RunToEnd();
  harness.RunToEnd();
  harness.ExpectIdle();
  EXPECT_EQ(harness.engine().Health(), "ok");
  for (const auto& [key, outcome] : harness.outcomes()) {
    EXPECT_EQ(outcome.num_ends, 1);
    if (key.first > 1000) {
      EXPECT_EQ(outcome.finish_reason, FinishReason::kError);
      EXPECT_EQ(outcome.error, "the model produced logits that are not finite");
      EXPECT_EQ(outcome.completion_tokens, 0);
    } else {
      EXPECT_EQ(outcome, quiet.outcome(key.first, key.second));
    }
  }
  EXPECT_EQ(harness.engine().Stats().finished_error, 2 * 66);
}

TEST(RequestWithEveryTokenBannedEndsWithError) {
  EngineConfig config = SmallConfig();
  FakeRunnerOptions options = SmallRunner();
  config.vocab_size = options.vocab_size = 2;
  config.eos_token_ids = {0, 1};
  options.poison_token_id = -1;
  Harness harness(config, options);
  Request request = GreedyRequest(1, {1}, 10);
  request.sampling.ignore_eos = false;
  request.sampling.min_tokens = 1;
  harness.Submit(request);
  harness.RunToEnd();
  harness.ExpectIdle();
  EXPECT_EQ(harness.outcome(1).error, "no token is left to draw: all are banned");
}

TEST(RunnerFaultAtAnyStepAnswersEveryone) {
  for (int64_t fault_at = 0; fault_at < 20; ++fault_at) {
    FakeRunnerOptions options = SmallRunner();
    options.throw_at_step = fault_at;
    EngineConfig config = SmallConfig();
    config.max_batch_size = 4;  // some wait
    Harness harness(config, options);
    size_t num_choices = 0;
    for (const Request& request : Mixed()) {
      harness.Submit(request);
      num_choices += static_cast<size_t>(request.num_choices);
    }
    while (harness.runner().num_steps() < fault_at) {
      EXPECT_EQ(harness.Step(), StepOutcome::kRan);
    }
    // These are still in the inbox when the engine dies.
    harness.Submit(GreedyRequest(100, {5, 6}, 5));
    EXPECT_EQ(harness.Step(), StepOutcome::kEnded);
    EXPECT_EQ(harness.Step(), StepOutcome::kEnded);
    EXPECT_EQ(harness.outcomes().size(), num_choices + 1);
    for (const auto& [key, outcome] : harness.outcomes()) {
      EXPECT_EQ(outcome.num_ends, 1);
    }
    EXPECT_EQ(harness.outcome(100).finish_reason, FinishReason::kError);
    EXPECT_EQ(harness.outcome(100).error, "the engine stopped because of an internal error");
    EXPECT_EQ(harness.engine().Health(),
              "dead: injected fault at step " + std::to_string(fault_at));
    EXPECT_FALSE(harness.engine().Stats().alive);
    const Status refused = harness.engine().Submit(GreedyRequest(101, {5}, 5));
    EXPECT_EQ(refused->code, ErrorCode::kUnavailable);
  }
}

TEST(ShutdownAnswersEveryoneAndRefusesMore) {
  Harness harness;
  for (const Request& request : Mixed()) {
    harness.Submit(request);
  }
  harness.Step();
  harness.Step();
  harness.Submit(GreedyRequest(100, {5, 6}, 5));
  harness.engine().Shutdown();
  harness.engine().Shutdown();
  EXPECT_EQ(harness.Step(), StepOutcome::kEnded);
  for (const auto& [key, outcome] : harness.outcomes()) {
    EXPECT_EQ(outcome.num_ends, 1);
  }
  EXPECT_EQ(harness.outcome(100).error, "the server is shutting down");
  EXPECT_EQ(harness.engine().Health(), "stopped");
  const Status refused = harness.engine().Submit(GreedyRequest(101, {5}, 5));
  EXPECT_EQ(refused->code, ErrorCode::kUnavailable);
  EXPECT_EQ(refused->message, "the server is shutting down");
}

TEST(APoolThatNeverAllocatesStopsTheEngineInsteadOfSpinning) {
  Harness harness;
  harness.engine().page_pool()->SetAllocationFault([](int32_t) { return true; });
  harness.Submit(GreedyRequest(1, {5, 6}, 5));
  int32_t steps = 0;
  while (harness.Step() != StepOutcome::kEnded) {
    EXPECT_LT(++steps, 100);
  }
  EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kError);
}

// Runs Mixed() with the k-th allocation inside Step() failing. Whatever it hits, nobody is left
// waiting: either the failure ended its own request, or the engine died and said so.
void RunWithFailingAllocation(int64_t failing, const Outcomes& reference, int64_t* contained,
                              int64_t* died) {
  Harness harness;
  for (const Request& request : Mixed()) {
    harness.Submit(request);
  }
  StepOutcome outcome = StepOutcome::kRan;
  std::vector<OutputItem> items;
  for (int64_t budget = failing; outcome == StepOutcome::kRan;) {
    const bool armed = budget >= 0;
    allocations_until_failure = budget;
    outcome = harness.engine().Step();
    budget = armed ? std::exchange(allocations_until_failure, -1) : -1;
    for (OutputItem& item : harness.engine().Drain()) {
      items.push_back(std::move(item));
    }
  }
  Outcomes outcomes;
  for (const OutputItem& item : items) {
    outcomes[{item.request_id, item.choice}].Add(item);
  }
  EXPECT_EQ(outcomes.size(), reference.size());
  int32_t num_errors = 0;
  for (const auto& [key, seen] : outcomes) {
    EXPECT_EQ(seen.num_ends, 1);
    if (seen.finish_reason == FinishReason::kError) {
      ++num_errors;
    } else {
      EXPECT_EQ(seen, reference.at(key));
    }
  }
  if (outcome == StepOutcome::kEnded) {
    ++*died;
    EXPECT_EQ(harness.engine().Health(), "dead: std::bad_alloc");
  } else {
    *contained += num_errors > 0 ? 1 : 0;
    EXPECT_LE(num_errors, 4);  // the choices of one request
    harness.ExpectIdle();
  }
}

TEST(EveryAllocationFailureIsAnswered) {
  if (MLC_SERVER_SANITIZED) {
    return;  // sanitizers bring their own operator new
  }
  Harness quiet;
  for (const Request& request : Mixed()) {
    quiet.Submit(request);
  }
  allocations_until_failure = std::numeric_limits<int64_t>::max();
  quiet.RunToEnd();
  allocations_until_failure = -1;
  int64_t contained = 0;
  int64_t died = 0;
  for (int64_t failing = 0; failing < 3000; failing += failing < 400 ? 1 : 7) {
    RunWithFailingAllocation(failing, quiet.outcomes(), &contained, &died);
  }
  EXPECT_GT(contained, 50);
  EXPECT_GT(died, 50);
}

}  // namespace
}  // namespace mlc_server::testing
