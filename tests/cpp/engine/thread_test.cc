// The engine on its own thread, used from several others at once.

#include <poll.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <random>
#include <thread>

#include "engine/engine_thread.h"
#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

constexpr int32_t kSubmitters = 4;
constexpr int32_t kRequestsEach = 250;

std::unique_ptr<EngineThread> MakeThread(const EngineConfig& config,
                                         const FakeRunnerOptions& options) {
  auto engine = Engine::Create(std::make_shared<FakeRunner>(options), MakeVocabulary(), config,
                               std::make_shared<SteadyClock>());
  EXPECT_TRUE(engine.ok());
  return std::make_unique<EngineThread>(std::move(engine).value());
}

// Reads on the eventfd until `num_ends` choices have ended or nothing comes for 20 s.
Outcomes ReadUntil(Engine* engine, const std::atomic<int64_t>& num_ends) {
  Outcomes outcomes;
  int64_t ends = 0;
  while (ends < num_ends) {
    pollfd poll_fd = {engine->wake_fd(), POLLIN, 0};
    EXPECT_EQ(poll(&poll_fd, 1, 20'000), 1);
    for (const OutputItem& item : engine->Drain()) {
      outcomes[{item.request_id, item.choice}].Add(item);
      ends += item.finish_reason == FinishReason::kNone ? 0 : 1;
    }
  }
  return outcomes;
}

// Submits requests whose ids are `submitter` modulo kSubmitters, waiting out a full queue.
void SubmitAll(Engine* engine, int32_t submitter, const std::vector<Request>& requests) {
  std::mt19937_64 random(submitter);
  for (const Request& request : requests) {
    if (request.id % kSubmitters != static_cast<RequestId>(submitter)) {
      continue;
    }
    while (const Status status = engine->Submit(request)) {
      EXPECT_EQ(status->code, ErrorCode::kQueueFull);
      std::this_thread::yield();
    }
    if (random() % 4 == 0) {
      engine->Cancel(request.id);
    }
    if (random() % 4 == 0) {
      engine->Cancel(1 + random() % (kSubmitters * kRequestsEach));
    }
    (void)engine->Stats();
    (void)engine->Health();
  }
}

TEST(ManyThreadsSubmitAndCancelWhileOneReads) {
  EngineConfig config = SmallConfig();
  config.num_pages = 64;
  config.max_queue_size = 50;
  const std::vector<Request> requests = RandomRequests(13, kSubmitters * kRequestsEach);
  Harness alone;
  std::atomic<int64_t> num_choices{0};
  for (const Request& request : requests) {
    num_choices += request.num_choices;
    alone.Submit(request);
  }
  alone.RunToEnd();

  const std::unique_ptr<EngineThread> thread = MakeThread(config, SmallRunner());
  EXPECT_EQ(thread->Health(), "not started");
  EXPECT_FALSE(thread->Start().has_value());
  EXPECT_EQ(thread->Start()->code, ErrorCode::kUnavailable);
  std::vector<std::thread> submitters;
  for (int32_t submitter = 0; submitter < kSubmitters; ++submitter) {
    submitters.emplace_back(SubmitAll, &thread->engine(), submitter, requests);
  }
  const Outcomes outcomes = ReadUntil(&thread->engine(), num_choices);
  for (std::thread& submitter : submitters) {
    submitter.join();
  }
  EXPECT_EQ(thread->Health(), "ok");
  EXPECT_TRUE(thread->Stop(std::chrono::seconds(60)));
  EXPECT_EQ(thread->Health(), "stopped");
  EXPECT_EQ(static_cast<int64_t>(outcomes.size()), num_choices.load());
  int32_t num_cancelled = 0;
  for (const auto& [key, outcome] : outcomes) {
    EXPECT_EQ(outcome.num_ends, 1);
    if (outcome.finish_reason == FinishReason::kCancelled) {
      ++num_cancelled;
    } else {
      EXPECT_EQ(outcome, alone.outcome(key.first, key.second));
    }
  }
  EXPECT_GT(num_cancelled, 10);
  EXPECT_LT(num_cancelled, num_choices.load() - 10);
}

TEST(StopInTheMiddleAnswersEverySubmittedRequest) {
  for (int32_t round = 0; round < 20; ++round) {
    FakeRunnerOptions options = SmallRunner();
    options.throw_at_step = round % 2 == 0 ? 5 + round : -1;  // dies before it is stopped
    const std::unique_ptr<EngineThread> thread = MakeThread(SmallConfig(), options);
    EXPECT_FALSE(thread->Start().has_value());
    std::atomic<int64_t> accepted{0};
    std::atomic<bool> over{false};
    std::thread submitter([&] {
      for (const Request& request : RandomRequests(round, 2000)) {
        if (over) {
          return;
        }
        accepted += thread->engine().Submit(request) ? 0 : request.num_choices;
      }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    EXPECT_TRUE(thread->Stop(std::chrono::seconds(60)));
    over = true;
    submitter.join();
    int64_t ends = 0;
    for (const OutputItem& item : thread->engine().Drain()) {
      ends += item.finish_reason == FinishReason::kNone ? 0 : 1;
    }
    EXPECT_EQ(ends, accepted.load());
    EXPECT_FALSE(thread->Stats().alive);
  }
}

TEST(IdleEngineSleepsAndItsHeartbeatGoesOn) {
  const std::unique_ptr<EngineThread> thread = MakeThread(SmallConfig(), SmallRunner());
  EXPECT_FALSE(thread->Start().has_value());
  const std::clock_t cpu_before = std::clock();
  int64_t oldest_ns = 0;
  for (int32_t look = 0; look < 30; ++look) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    oldest_ns = std::max(oldest_ns, thread->Stats().heartbeat_age_ns);
  }
  const double cpu_s = static_cast<double>(std::clock() - cpu_before) / CLOCKS_PER_SEC;
  EXPECT_LT(cpu_s, 0.1);  // of 0.6 s
  EXPECT_LT(oldest_ns, int64_t{2'000'000'000});
  EXPECT_TRUE(thread->Stats().alive);
}

TEST(HungStepShowsInTheHeartbeat) {
  FakeRunnerOptions options = SmallRunner();
  options.step_ns = 400'000'000;
  const std::unique_ptr<EngineThread> thread = MakeThread(SmallConfig(), options);
  EXPECT_FALSE(thread->Start().has_value());
  EXPECT_FALSE(thread->engine().Submit(GreedyRequest(1, {5}, 1)).has_value());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_GT(thread->Stats().heartbeat_age_ns, int64_t{100'000'000});
  // A stop gives up on the step, and can be tried again.
  EXPECT_FALSE(thread->Stop(std::chrono::milliseconds(1)));
  EXPECT_TRUE(thread->Stop(std::chrono::seconds(60)));
  EXPECT_EQ(thread->Health(), "stopped");
}

}  // namespace
}  // namespace mlc_server::testing
