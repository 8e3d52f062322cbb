// Choices of one request share the pages that their prompt fills, and copy the rest of it.

#include "cpp/schedule/scheduler_harness.h"
#include "schedule/scheduler.h"

namespace mlc_server::testing {
namespace {

using Ids = std::vector<SequenceId>;
using Text = std::string;

std::string Copied(PageId from, PageId to) {
  return std::to_string(from) + ">" + std::to_string(to);
}

TEST(SiblingsWaitForThePromptAndRunOnlyItsLastToken) {
  SchedulerHarness harness(16, 8, 8);
  const auto request = SchedulerHarness::MakeRequest(10, 3);
  Sequence* first = harness.Add(request);
  Sequence* second = harness.Add(request);
  Sequence* third = harness.Add(request);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+8"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:8+2!"));
  const Batch batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("1:10+1! 2:9+1! 3:9+1!"));
  EXPECT_EQ(DescribeCopies(batch), Copied(first->pages[2], second->pages[2]) + " " +
                                       Copied(first->pages[2], third->pages[2]));
  EXPECT_EQ(harness.pool.num_free(), 16 - 2 - 3);
  for (int32_t index : {0, 1}) {
    EXPECT_EQ(second->pages[index], first->pages[index]);
    EXPECT_EQ(third->pages[index], first->pages[index]);
    EXPECT_EQ(harness.pool.reference_count(first->pages[index]), 3);
  }
  EXPECT_NE(second->pages[2], first->pages[2]);
  EXPECT_NE(second->pages[2], third->pages[2]);
  EXPECT_EQ(Describe(harness.Step()), Text("1:11+1! 2:10+1! 3:10+1!"));
}

// The last token's row must run, so a page that holds it is copied; a page that ends just before it
// is shared.
TEST(PageOfTheLastPromptTokenIsNotShared) {
  SchedulerHarness harness(16, 8, 32);
  const auto whole = SchedulerHarness::MakeRequest(8, 2);
  harness.Add(whole);
  harness.Add(whole);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+8!"));
  Batch batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("1:8+1! 2:7+1!"));
  EXPECT_EQ(batch.copies.size(), size_t{1});
  const auto one_more = SchedulerHarness::MakeRequest(9, 2);
  harness.Add(one_more);
  harness.Add(one_more);
  EXPECT_EQ(Describe(harness.Step()), Text("1:9+1! 2:8+1! 3:0+9!"));
  batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("1:10+1! 2:9+1! 3:9+1! 4:8+1!"));
  EXPECT_EQ(DescribeCopies(batch), Text(""));
}

TEST(PromptOfOneTokenHasNothingToShareAndNobodyWaits) {
  SchedulerHarness harness(16, 8, 32);
  const auto request = SchedulerHarness::MakeRequest(1, 2);
  harness.Add(request);
  harness.Add(request);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+1! 2:0+1!"));
}

TEST(ChoiceComputesTheRestWhenThereIsNoPageToCopyItTo) {
  SchedulerHarness harness(16, 8, 32);
  const auto request = SchedulerHarness::MakeRequest(10, 2);
  harness.Add(request);
  Sequence* second = harness.Add(request);
  harness.Step();
  int32_t num_refused = 0;
  harness.pool.SetAllocationFault([&](int32_t) { return num_refused++ == 0; });
  const Batch batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("1:10+1! 2:8+2!"));
  EXPECT_EQ(DescribeCopies(batch), Text(""));
  EXPECT_EQ(second->computed, 10);
}

// Nothing would make the copy if the step has no rows.
TEST(HeldChoiceThatStartsAgainCopiesNothing) {
  SchedulerHarness harness(16, 2, 32);
  const auto request = SchedulerHarness::MakeRequest(10, 2, /*priority=*/1);
  Sequence* first = harness.Add(request);
  Sequence* second = harness.Add(request);
  harness.Step();
  harness.Step();
  first->held = second->held = true;
  Sequence* urgent = harness.Add(1, /*priority=*/0);
  EXPECT_EQ(PreemptedIds(harness.Step()), Ids{2});
  harness.scheduler.Remove(urgent);
  const Batch nothing = harness.Step();
  EXPECT_EQ(second->state, SequenceState::kRunning);
  EXPECT_EQ(Describe(nothing) + DescribeCopies(nothing), Text(""));
  first->held = second->held = false;
  EXPECT_EQ(Describe(harness.Step()), Text("1:11+1! 2:8+3!"));
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
  EXPECT_EQ(Describe(harness.Step()), Text("2:18+2!"));
  EXPECT_EQ(Describe(harness.Step()), Text("2:20+1! 3:19+1!"));
}

// As when every choice is to have one token: each ends in the step in which it starts.
TEST(ChoiceThatWaitsTakesOverThePromptOfOneThatEnds) {
  SchedulerHarness harness(16, 1, 32);
  const auto request = SchedulerHarness::MakeRequest(10, 3);
  Sequence* first = harness.Add(request);
  Sequence* second = harness.Add(request);
  Sequence* third = harness.Add(request);
  Sequence* other = harness.Add(1);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+10!"));
  const std::vector<PageId> pages = first->pages;
  harness.scheduler.Remove(first);
  harness.scheduler.CheckIntegrity();
  EXPECT_TRUE(second->pages == pages);
  EXPECT_EQ(Describe(harness.Step()), Text("2:9+1!"));
  EXPECT_EQ(Describe(harness.Step()), Text("2:10+1!"));
  harness.scheduler.Remove(second);
  EXPECT_EQ(harness.pool.num_free(), 16 - 3);
  EXPECT_EQ(Describe(harness.Step()), Text("3:9+1!"));
  harness.scheduler.Remove(third);
  EXPECT_EQ(harness.pool.num_free(), 16);
  EXPECT_EQ(Describe(harness.Step()), Text("4:0+1!"));
  harness.scheduler.Remove(other);
}

TEST(NobodyTakesOverWhatIsInFlight) {
  SchedulerHarness harness(16, 1, 32);
  const auto request = SchedulerHarness::MakeRequest(10, 2);
  Sequence* first = harness.Add(request);
  harness.Add(request);
  harness.Step();
  const Batch batch = harness.scheduler.Schedule();
  harness.scheduler.Remove(first);
  harness.scheduler.CheckIntegrity();
  EXPECT_EQ(harness.pool.num_free(), 16);
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+10!"));
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

// It gets the very page that it would have copied: the one that was given up last.
TEST(ChoiceMayPreemptTheOneItCopiesFrom) {
  for (const bool grows : {false, true}) {
    SchedulerHarness harness(16, 1, 32);
    const auto request = SchedulerHarness::MakeRequest(11, 2);
    Sequence* late = harness.Add(request, /*id=*/20);
    harness.Step();
    if (grows) {
      harness.Step();
      harness.Step();  // it has a fourth page by now
    }
    const std::vector<PageId> pages = late->pages;
    Sequence* early = harness.Add(request, /*id=*/10);
    const Batch batch = harness.Step();
    EXPECT_EQ(Describe(batch), Text("10:10+1!"));
    EXPECT_EQ(PreemptedIds(batch), Ids{20});
    EXPECT_TRUE(early->pages == std::vector<PageId>(pages.begin(), pages.begin() + 3));
    EXPECT_EQ(DescribeCopies(batch), Text(""));
  }
}

}  // namespace
}  // namespace mlc_server::testing
