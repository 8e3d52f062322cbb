// The time from a request's arrival to the first step that runs some of it is told once, at once.

#include <map>

#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

constexpr int64_t kStepNs = 1000;

struct Told {
  int32_t times = 0;
  int64_t queue_ns = -1;
  int64_t step = -1;      // in which it was told
  int64_t end_step = -1;  // in which the last of its choices ended
};

// An engine whose clock moves kStepNs with each step.
class ClockedEngine {
 public:
  explicit ClockedEngine(const EngineConfig& config) {
    auto engine = Engine::Create(std::make_shared<FakeRunner>(SmallRunner()), MakeVocabulary(),
                                 config, clock_);
    EXPECT_TRUE(engine.ok());
    engine_ = std::move(engine).value();
  }

  void Submit(const Request& request) { EXPECT_FALSE(engine_->Submit(request).has_value()); }

  Engine::StepOutcome Step() {
    const Engine::StepOutcome outcome = engine_->Step();
    for (const OutputItem& item : engine_->Drain()) {
      Told& told = told_[item.request_id];
      if (item.queue_ns >= 0) {
        ++told.times;
        told.queue_ns = item.queue_ns;
        told.step = num_steps_;
      }
      if (item.finish_reason != FinishReason::kNone) {
        told.end_step = num_steps_;
      }
    }
    clock_->AdvanceNs(kStepNs);
    ++num_steps_;
    return outcome;
  }

  void RunToEnd() {
    while (Step() == Engine::StepOutcome::kRan) {
    }
  }

  Engine& engine() { return *engine_; }
  const Told& told(RequestId id) { return told_[id]; }

 private:
  std::shared_ptr<ManualClock> clock_ = std::make_shared<ManualClock>();
  std::unique_ptr<Engine> engine_;
  std::map<RequestId, Told> told_;
  int64_t num_steps_ = 0;
};

std::vector<int32_t> Prompt(int32_t length) { return std::vector<int32_t>(length, 30); }

TEST(QueueTimeIsToldWithTheFirstChunkOfALongPrompt) {
  EngineConfig config = SmallConfig();
  config.prefill_chunk_size = 8;
  ClockedEngine engine(config);
  engine.Submit(GreedyRequest(1, Prompt(40), 2));  // five steps of prompt
  engine.RunToEnd();
  EXPECT_EQ(engine.told(1).times, 1);
  EXPECT_EQ(engine.told(1).queue_ns, 0);
  EXPECT_EQ(engine.told(1).step, 0);
  EXPECT_EQ(engine.told(1).end_step, 5);
}

TEST(QueueTimeCountsTheStepsWaited) {
  EngineConfig config = SmallConfig();
  config.max_batch_size = 1;
  ClockedEngine engine(config);
  engine.Submit(GreedyRequest(1, Prompt(4), 10));
  engine.Step();
  engine.Submit(GreedyRequest(2, Prompt(4), 10));
  engine.RunToEnd();
  EXPECT_EQ(engine.told(1).queue_ns, 0);
  EXPECT_EQ(engine.told(1).end_step, 9);
  // It came before step 1 and ran in step 10.
  EXPECT_EQ(engine.told(2).queue_ns, 9 * kStepNs);
  EXPECT_EQ(engine.told(2).step, 10);
}

TEST(QueueTimeIsToldOncePerRequestWhateverHappens) {
  EngineConfig config = SmallConfig();
  config.num_pages = 32;  // choices are preempted
  config.max_batch_size = 8;
  ClockedEngine engine(config);
  const std::vector<Request> requests = RandomRequests(3, 40);
  for (const Request& request : requests) {
    engine.Submit(request);
  }
  engine.Submit(GreedyRequest(100, {kPoison}, 3));
  engine.Submit(GreedyRequest(101, Prompt(4), 3));
  engine.engine().Cancel(101);
  engine.RunToEnd();
  EXPECT_GT(engine.engine().Stats().preemptions, int64_t{0});
  int64_t longest_ns = 0;
  for (const Request& request : requests) {
    EXPECT_EQ(engine.told(request.id).times, 1);
    EXPECT_GE(engine.told(request.id).end_step, engine.told(request.id).step);
    longest_ns = std::max(longest_ns, engine.told(request.id).queue_ns);
  }
  EXPECT_GT(longest_ns, 5 * kStepNs);
  EXPECT_EQ(engine.told(100).times, 1);  // failed in its first step
  EXPECT_EQ(engine.told(101).times, 0);  // cancelled before it ran
  EXPECT_GE(engine.told(101).end_step, int64_t{0});
}

}  // namespace
}  // namespace mlc_server::testing
