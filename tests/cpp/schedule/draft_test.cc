// Drafts run in what is left of a step, and cost nobody anything.

#include "cpp/schedule/scheduler_harness.h"
#include "schedule/scheduler.h"

namespace mlc_server::testing {
namespace {

using Text = std::string;

TEST(DecodeEntryRunsItsDraftsAndKeepsTheRightOnes) {
  SchedulerHarness harness(8, 4, 16);
  Sequence* sequence = harness.Add(3);
  sequence->drafts = {2, 2, 2};
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+3!"));  // a prompt's end is no decode
  EXPECT_EQ(Describe(harness.Step(2)), Text("1:3+1+3d!"));
  EXPECT_EQ(sequence->length(), 7);
  EXPECT_EQ(sequence->computed, 6);
  EXPECT_EQ(Describe(harness.Step(0)), Text("1:6+1+3d!"));
  EXPECT_EQ(sequence->computed, 7);
  EXPECT_EQ(sequence->pages.size(), size_t{2});  // the third was for drafts
  EXPECT_EQ(Describe(harness.Step(3)), Text("1:7+1+3d!"));
  EXPECT_EQ(sequence->computed, 11);
}

TEST(DraftsTakeWhatIsLeftOfASmallStepInOrder) {
  SchedulerHarness harness(32, 4, 16);  // at most 8 rows with drafts
  Sequence* first = harness.Add(2);
  Sequence* second = harness.Add(2);
  harness.Step();
  first->drafts = second->drafts = {5, 5, 5, 5};
  EXPECT_EQ(Describe(harness.Step()), Text("1:2+1+4d! 2:2+1+2d!"));
  harness.Add(3);
  EXPECT_EQ(Describe(harness.Step()), Text("1:3+1+3d! 2:3+1! 3:0+3!"));
  harness.Add(9);  // a prompt makes the step too large
  EXPECT_EQ(Describe(harness.Step()), Text("1:4+1! 2:4+1! 3:3+1! 4:0+9!"));
}

TEST(DraftsNeverTakeTokensFromOthers) {
  SchedulerHarness harness(32, 4, 6);
  Sequence* first = harness.Add(2);
  harness.Step();
  first->drafts = {5, 5, 5, 5};
  harness.Add(9);
  EXPECT_EQ(Describe(harness.Step()), Text("1:2+1! 2:0+5"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:3+1+1d! 2:5+4!"));
}

TEST(DraftsTakeOnlyFreePages) {
  SchedulerHarness harness(4, 4, 16);
  Sequence* first = harness.Add(3);
  Sequence* second = harness.Add(7);
  harness.Step();
  EXPECT_EQ(harness.pool.num_free(), 1);
  first->drafts = second->drafts = {5, 5, 5, 5};
  // One page and no more: the second has no slot left of its own.
  Batch batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("1:3+1+4d! 2:7+1!"));
  EXPECT_TRUE(batch.preempted.empty());
  EXPECT_EQ(harness.pool.num_free(), 1);  // rejected drafts gave it back
  harness.pool.SetAllocationFault([](int32_t) { return true; });
  batch = harness.scheduler.Schedule();
  EXPECT_TRUE(batch.entries.empty());
}

TEST(SequenceMayGoWhileItsDraftsAreInFlight) {
  SchedulerHarness harness(8, 4, 16);
  Sequence* sequence = harness.Add(4);
  harness.Step();
  sequence->drafts = {5, 5, 5, 5};
  const Batch batch = harness.scheduler.Schedule();
  EXPECT_EQ(Describe(batch), Text("1:4+1+4d!"));
  EXPECT_EQ(harness.pool.num_free(), 5);
  harness.scheduler.Remove(sequence);
  harness.scheduler.CheckIntegrity();
  EXPECT_EQ(harness.pool.num_free(), 8);
}

TEST(UnsettledDraftsAreRefused) {
  SchedulerHarness harness(8, 4, 16);
  Sequence* sequence = harness.Add(3);
  harness.Step();
  sequence->drafts = {5, 5};
  const Batch batch = harness.scheduler.Schedule();
  harness.scheduler.Commit(batch);
  harness.scheduler.CheckIntegrity();
  EXPECT_THROW(harness.scheduler.Schedule(), InvariantError);
  EXPECT_THROW(harness.scheduler.KeepDrafts(sequence, 3), InvariantError);
  EXPECT_THROW(harness.scheduler.KeepDrafts(sequence, 0), InvariantError);  // nothing was drawn
}

}  // namespace
}  // namespace mlc_server::testing
