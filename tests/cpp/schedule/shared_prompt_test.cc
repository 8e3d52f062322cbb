// Choices of one request share the whole pages of their prompt.

#include "cpp/schedule/scheduler_harness.h"
#include "schedule/scheduler.h"

namespace mlc_server::testing {
namespace {

using Ids = std::vector<SequenceId>;
using Text = std::string;

TEST(SiblingsWaitForThePromptAndRunOnlyTheRest) {
  SchedulerHarness harness(16, 8, 8);
  const auto request = SchedulerHarness::MakeRequest(10, 3);
  Sequence* first = harness.Add(request);
  Sequence* second = harness.Add(request);
  Sequence* third = harness.Add(request);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+8"));
  // Two whole pages are there although the prompt is not done: that is all the siblings need.
  EXPECT_EQ(Describe(harness.Step()), Text("1:8+2! 2:8+2! 3:8+2!"));
  EXPECT_EQ(harness.pool.num_free(), 16 - 2 - 3);
  for (int32_t index : {0, 1}) {
    EXPECT_EQ(second->pages[index], first->pages[index]);
    EXPECT_EQ(third->pages[index], first->pages[index]);
    EXPECT_EQ(harness.pool.reference_count(first->pages[index]), 3);
  }
  EXPECT_NE(second->pages[2], first->pages[2]);
  EXPECT_NE(second->pages[2], third->pages[2]);
  EXPECT_EQ(Describe(harness.Step()), Text("1:10+1! 2:10+1! 3:10+1!"));
}

// The last token's row must run, so a page that holds it is not shared; a page that ends just
// before it is.
TEST(PageOfTheLastPromptTokenIsNotShared) {
  SchedulerHarness harness(16, 8, 32);
  const auto whole = SchedulerHarness::MakeRequest(8, 2);
  harness.Add(whole);
  harness.Add(whole);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+8!"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:8+1! 2:4+4!"));
  const auto one_more = SchedulerHarness::MakeRequest(9, 2);
  harness.Add(one_more);
  harness.Add(one_more);
  EXPECT_EQ(Describe(harness.Step()), Text("1:9+1! 2:8+1! 3:0+9!"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:10+1! 2:9+1! 3:9+1! 4:8+1!"));
}

TEST(ShortPromptHasNothingToShareAndNobodyWaits) {
  SchedulerHarness harness(16, 8, 32);
  const auto request = SchedulerHarness::MakeRequest(4, 2);
  harness.Add(request);
  harness.Add(request);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+4! 2:0+4!"));
}

TEST(RequestsWithTheSamePromptDoNotShare) {
  SchedulerHarness harness(16, 8, 32);
  harness.Add(SchedulerHarness::MakeRequest(9, 2));
  harness.Add(SchedulerHarness::MakeRequest(9, 2));
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+9! 2:0+9!"));
  EXPECT_EQ(harness.pool.num_free(), 10);
}

TEST(LaterRequestsPassWaitingSiblingsButKeepTheirSeatsFree) {
  SchedulerHarness harness(32, 4, 32);
  const auto request = SchedulerHarness::MakeRequest(9, 3);
  harness.Add(request);
  harness.Add(request);
  harness.Add(request);
  harness.Add(3);
  harness.Add(3);  // would take the seat of the third choice
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+9! 4:0+3!"));
  const Batch batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("1:9+1! 2:8+1! 3:8+1! 4:3+1!"));
  EXPECT_TRUE(batch.preempted.empty());
}

TEST(NextChoiceComputesThePromptWhenTheFirstIsRemoved) {
  SchedulerHarness harness(32, 8, 6);
  const auto request = SchedulerHarness::MakeRequest(20, 3);
  Sequence* first = harness.Add(request);
  harness.Add(request);
  Sequence* third = harness.Add(request);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+6"));
  harness.scheduler.Remove(first);
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+6"));
  EXPECT_EQ(third->state, SequenceState::kWaiting);
  EXPECT_EQ(Describe(harness.Step()), Text("2:6+6"));
  EXPECT_EQ(Describe(harness.Step()), Text("2:12+6"));
  EXPECT_EQ(Describe(harness.Step()), Text("2:18+2! 3:16+4!"));
}

TEST(SharedPagesOutliveTheChoiceThatComputedThem) {
  SchedulerHarness harness(16, 8, 32);
  const auto request = SchedulerHarness::MakeRequest(9, 3);
  Sequence* first = harness.Add(request);
  Sequence* second = harness.Add(request);
  harness.Step();
  harness.Step();
  const std::vector<PageId> shared(first->pages.begin(), first->pages.begin() + 2);
  harness.scheduler.Remove(first);
  for (PageId page : shared) {
    EXPECT_EQ(harness.pool.reference_count(page), 1);
  }
  // A choice that comes later still takes them, from the second.
  Sequence* third = harness.Add(request);
  EXPECT_EQ(Describe(harness.Step()), Text("2:9+1! 3:8+1!"));
  EXPECT_EQ(third->pages[1], shared[1]);
  harness.scheduler.Remove(second);
  harness.scheduler.Remove(third);
  EXPECT_EQ(harness.pool.num_free(), 16);
}

TEST(PreemptedChoiceSharesAgainAndRecomputesTheRest) {
  SchedulerHarness harness(16, 2, 32);
  const auto request = SchedulerHarness::MakeRequest(9, 2, /*priority=*/1);
  Sequence* first = harness.Add(request);
  harness.Add(request);
  harness.Step();
  harness.Step();
  Sequence* urgent = harness.Add(1, /*priority=*/0);
  EXPECT_EQ(PreemptedIds(harness.Step()), Ids{2});
  EXPECT_EQ(harness.pool.reference_count(first->pages[0]), 1);
  harness.scheduler.Remove(urgent);
  EXPECT_EQ(Describe(harness.Step()), Text("1:11+1! 2:8+2!"));
  EXPECT_EQ(harness.pool.reference_count(first->pages[0]), 2);
}

TEST(PreemptedFirstChoiceComputesThePromptAgain) {
  SchedulerHarness harness(16, 1, 6);
  const auto request = SchedulerHarness::MakeRequest(9, 2, /*priority=*/1);
  harness.Add(request);
  harness.Add(request);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+6"));
  Sequence* urgent = harness.Add(2, /*priority=*/0);
  EXPECT_EQ(PreemptedIds(harness.Step()), Ids{1});
  harness.scheduler.Remove(urgent);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+6"));
}

// The first in order never waits for one that it may preempt.
TEST(ChoiceDoesNotWaitForOneAfterItInOrder) {
  SchedulerHarness harness(16, 2, 6);
  const auto request = SchedulerHarness::MakeRequest(12, 2);
  harness.Add(request, /*id=*/20);
  EXPECT_EQ(Describe(harness.Step()), Text("20:0+6"));
  harness.Add(request, /*id=*/10);
  EXPECT_EQ(Describe(harness.Step()), Text("10:0+6"));
}

// Taking the pages comes before making room, so they survive their only other owner.
TEST(ChoiceMayPreemptTheOneItTakesPagesFrom) {
  SchedulerHarness harness(16, 1, 32);
  const auto request = SchedulerHarness::MakeRequest(9, 2);
  Sequence* late = harness.Add(request, /*id=*/20);
  harness.Step();
  const std::vector<PageId> pages = late->pages;
  Sequence* early = harness.Add(request, /*id=*/10);
  const Batch batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("10:8+1!"));
  EXPECT_EQ(PreemptedIds(batch), Ids{20});
  EXPECT_EQ(early->pages[0], pages[0]);
  EXPECT_EQ(early->pages[1], pages[1]);
  EXPECT_EQ(harness.pool.reference_count(pages[0]), 1);
}

}  // namespace
}  // namespace mlc_server::testing
