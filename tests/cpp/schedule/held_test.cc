// Sequences that the engine holds back, and those whose last token runs again.

#include "cpp/schedule/scheduler_harness.h"
#include "schedule/scheduler.h"

namespace mlc_server::testing {
namespace {

using Text = std::string;

TEST(AHeldSequenceGetsNoTokensAndKeepsItsPages) {
  SchedulerHarness harness(32, 4, 16);
  Sequence* first = harness.Add(2);
  Sequence* second = harness.Add(2);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+2! 2:0+2!"));
  first->held = true;
  EXPECT_EQ(Describe(harness.Step()), Text("2:2+1!"));
  EXPECT_EQ(first->pages.size(), size_t{1});
  // What it does not run is there for others.
  harness.Add(15);
  EXPECT_EQ(Describe(harness.Step()), Text("2:3+1! 3:0+15!"));
  second->held = true;
  first->held = false;
  EXPECT_EQ(Describe(harness.Step()), Text("1:2+1! 3:15+1!"));
}

TEST(WhenAllAreHeldThereIsNothingToRun) {
  SchedulerHarness harness(32, 1, 16);
  Sequence* first = harness.Add(2);
  harness.Add(2);  // has no seat
  harness.Step();
  first->held = true;
  EXPECT_EQ(Describe(harness.Step()), Text(""));
  first->held = false;
  EXPECT_EQ(Describe(harness.Step()), Text("1:2+1!"));
}

TEST(AHeldSequenceCanBePreemptedAndStartsAgainWhenLetGo) {
  SchedulerHarness harness(5, 4, 16);
  Sequence* first = harness.Add(7);
  Sequence* second = harness.Add(7);
  harness.Step();
  second->held = true;
  for (int32_t step = 0; step < 7; ++step) {
    harness.Step();
  }
  EXPECT_EQ(second->state, SequenceState::kWaiting);
  harness.scheduler.Remove(first);
  EXPECT_EQ(Describe(harness.Step()), Text(""));
  second->held = false;
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+8!"));
}

TEST(ATokenThatRunsAgainGivesBackThePageItTook) {
  SchedulerHarness harness(8, 4, 16);
  Sequence* sequence = harness.Add(4);
  harness.Step();
  sequence->drafts = {5, 5, 5, 5};
  for (int32_t round = 0; round < 2; ++round) {
    const Batch batch = harness.scheduler.Schedule();
    EXPECT_EQ(Describe(batch), Text("1:4+1+4d!"));
    EXPECT_EQ(sequence->pages.size(), size_t{3});
    harness.scheduler.Commit(batch);
    harness.scheduler.RunAgain(sequence);
    EXPECT_EQ(sequence->computed, 4);
    EXPECT_EQ(sequence->pages.size(), size_t{1});
    harness.scheduler.CheckIntegrity();
    harness.pool.CheckIntegrity();
  }
}

}  // namespace
}  // namespace mlc_server::testing
