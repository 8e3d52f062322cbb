#include "schedule/scheduler.h"

#include "cpp/schedule/scheduler_harness.h"

namespace mlc_server::testing {
namespace {

using Ids = std::vector<SequenceId>;
using Text = std::string;

TEST(NothingToDoIsAnEmptyBatch) {
  SchedulerHarness harness(4, 4, 16);
  const Batch batch = harness.Step();
  EXPECT_TRUE(batch.entries.empty());
  EXPECT_EQ(batch.num_tokens, 0);
}

TEST(PromptLongerThanTheBudgetRunsInChunks) {
  SchedulerHarness harness(8, 4, 4);
  harness.Add(10);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+4"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:4+4"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:8+2!"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:10+1!"));
}

TEST(DecodeIsServedAndLaidOutFirst) {
  SchedulerHarness harness(16, 4, 8);
  harness.Add(20, /*priority=*/0);
  harness.Add(3, /*priority=*/1);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+8"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:8+8"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:16+4! 2:0+3!"));
  harness.Add(20, /*priority=*/0);
  EXPECT_EQ(Describe(harness.Step()), Text("1:20+1! 2:3+1! 3:0+6"));
}

TEST(PrefillGoesByPriorityThenArrival) {
  SchedulerHarness harness(16, 4, 6);
  harness.Add(4, /*priority=*/1);
  harness.Add(4, /*priority=*/0);
  harness.Add(4, /*priority=*/0);
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+4! 3:0+2"));
  EXPECT_EQ(Describe(harness.Step()), Text("2:4+1! 3:2+2! 1:0+3"));
}

TEST(BatchIsBoundedBySequencesAndByTokens) {
  SchedulerHarness by_sequences(16, 2, 16);
  SchedulerHarness by_tokens(16, 8, 2);
  for (int i = 0; i < 3; ++i) {
    by_sequences.Add(1);
    by_tokens.Add(1);
  }
  EXPECT_EQ(Describe(by_sequences.Step()), Text("1:0+1! 2:0+1!"));
  EXPECT_EQ(Describe(by_tokens.Step()), Text("1:0+1! 2:0+1!"));
  EXPECT_EQ(by_tokens.scheduler.num_waiting(), 1);
}

TEST(HigherPriorityTakesTheSeatOfTheLast) {
  SchedulerHarness harness(16, 2, 16);
  harness.Add(4, /*priority=*/1);
  harness.Add(4, /*priority=*/1);
  harness.Step();
  harness.Add(4, /*priority=*/0);
  const Batch batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("1:4+1! 3:0+4!"));
  EXPECT_EQ(PreemptedIds(batch), Ids{2});
}

TEST(EqualPriorityWaitsForASeat) {
  SchedulerHarness harness(16, 1, 16);
  Sequence* first = harness.Add(4);
  harness.Add(4);
  harness.Step();
  EXPECT_EQ(Describe(harness.Step()), Text("1:4+1!"));
  harness.scheduler.Remove(first);
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+4!"));
}

TEST(SequenceStartsWhenItFitsWithAPageOfGrowthForEachBeforeIt) {
  SchedulerHarness harness(6, 4, 32);
  Sequence* first = harness.Add(8);
  harness.Add(5);
  Sequence* last = harness.Add(5);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+8! 2:0+5!"));
  EXPECT_EQ(harness.pool.num_free(), 2);
  EXPECT_EQ(Describe(harness.Step()), Text("1:8+1! 2:5+1!"));
  EXPECT_EQ(last->state, SequenceState::kWaiting);
  harness.scheduler.Remove(first);
  EXPECT_EQ(Describe(harness.Step()), Text("2:6+1! 3:0+5!"));
}

// The first to need a page takes it from the last alone, which is recomputed, generated tokens
// included, once there is room.
TEST(OnlyTheLastIsPreemptedAndItIsRecomputedFromItsTokens) {
  SchedulerHarness harness(9, 4, 32);
  Sequence* first = harness.Add(4);
  Sequence* second = harness.Add(4);
  Sequence* third = harness.Add(4);
  harness.Step();  // each holds one page and needs its second in the next step
  EXPECT_EQ(harness.pool.num_free(), 6);
  while (first->length() < 12) {
    EXPECT_TRUE(harness.Step().preempted.empty());
  }
  EXPECT_EQ(harness.pool.num_free(), 0);  // three pages each
  harness.Step();
  const Batch batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("1:12+1! 2:12+1!"));
  EXPECT_EQ(PreemptedIds(batch), Ids{3});
  EXPECT_EQ(third->state, SequenceState::kWaiting);
  EXPECT_EQ(third->computed, 0);
  EXPECT_TRUE(third->pages.empty());
  EXPECT_EQ(harness.pool.num_free(), 1);
  harness.scheduler.Remove(first);
  EXPECT_EQ(Describe(harness.Step()), Text("2:13+1! 3:0+13!"));
  EXPECT_EQ(second->state, SequenceState::kRunning);
}

TEST(LastInOrderSitsOutAndKeepsItsPages) {
  SchedulerHarness harness(5, 4, 32);
  Sequence* first = harness.Add(5);
  Sequence* second = harness.Add(5);
  for (int step = 0; step < 4; ++step) {
    EXPECT_EQ(harness.Step().entries.size(), size_t{2});
  }
  // Both need their third page, and one is free.
  const Batch batch = harness.Step();
  EXPECT_EQ(Describe(batch), Text("1:8+1!"));
  EXPECT_TRUE(batch.preempted.empty());
  EXPECT_EQ(second->pages.size(), size_t{2});
  harness.scheduler.Remove(first);
  EXPECT_EQ(Describe(harness.Step()), Text("2:8+1!"));
}

TEST(LoneSequenceMayFillThePool) {
  SchedulerHarness harness(3, 4, 5);
  Sequence* sequence = harness.Add(7);
  while (sequence->length() < 12) {
    EXPECT_FALSE(harness.Step().entries.empty());
  }
  EXPECT_EQ(Describe(harness.Step()), Text("1:11+1!"));
  EXPECT_EQ(harness.pool.num_free(), 0);
}

TEST(NobodyOvertakesASequenceThatDoesNotFit) {
  SchedulerHarness harness(6, 4, 64);
  Sequence* first = harness.Add(10);
  harness.Add(12);  // three pages and one of growth for the first: one too many
  harness.Add(2);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+10!"));
  EXPECT_EQ(harness.scheduler.num_waiting(), 2);
  harness.scheduler.Remove(first);
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+12! 3:0+2!"));
}

// Pages that two victims share are freed once: counted twice, they would be preempted in vain;
// not counted, they would keep out a sequence of higher priority that fits.
TEST(SharedPagesOfVictimsCountOnce) {
  for (const bool fits : {true, false}) {
    SchedulerHarness harness(12, 8, 64);
    harness.Add(4, /*priority=*/0);
    const auto request = SchedulerHarness::MakeRequest(17, 2, /*priority=*/2);
    harness.Add(request);
    harness.Add(request);
    harness.Step();
    harness.Step();
    EXPECT_EQ(harness.scheduler.num_running(), 3);
    EXPECT_EQ(harness.pool.num_free(), 4);  // 2, 4 shared, 1 and 1 are held
    // Nine or ten pages and one of growth, of the ten that are free without the two.
    harness.Add(fits ? 36 : 37, /*priority=*/1);
    EXPECT_EQ(PreemptedIds(harness.Step()), fits ? (Ids{3, 2}) : Ids{});
  }
}

TEST(FailedAllocationCostsAStepAndNoMore) {
  SchedulerHarness harness(8, 4, 16);
  bool fails = true;
  harness.pool.SetAllocationFault([&](int32_t) { return fails; });
  harness.Add(6);
  harness.Add(6);
  EXPECT_TRUE(harness.Step().entries.empty());
  fails = false;
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+6! 2:0+6!"));
  fails = true;
  // Slots in pages that are held need no allocation.
  EXPECT_EQ(Describe(harness.Step()), Text("1:6+1! 2:6+1!"));
}

TEST(SequenceMayGoWhileItsBatchIsInFlight) {
  SchedulerHarness harness(8, 4, 16);
  Sequence* first = harness.Add(6);
  Sequence* second = harness.Add(6);
  const Batch batch = harness.scheduler.Schedule();
  harness.scheduler.Remove(first);
  harness.scheduler.CheckIntegrity();
  EXPECT_EQ(first->state, SequenceState::kFinished);
  EXPECT_EQ(harness.pool.num_free(), 6);
  harness.scheduler.Commit(batch);
  EXPECT_EQ(second->computed, 6);
  EXPECT_EQ(first->computed, 0);
}

TEST(BatchOfRemovedSequencesNeedsNoCommit) {
  SchedulerHarness harness(8, 4, 16);
  Sequence* first = harness.Add(6);
  harness.scheduler.Schedule();
  harness.scheduler.Remove(first);
  harness.scheduler.CheckIntegrity();
  harness.Add(3);
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+3!"));
}

TEST(RemovingTwiceIsHarmless) {
  SchedulerHarness harness(8, 4, 16);
  Sequence* running = harness.Add(6);
  harness.Step();
  Sequence* waiting = harness.Add(6);
  for (Sequence* sequence : {running, waiting, running, waiting}) {
    harness.scheduler.Remove(sequence);
    EXPECT_EQ(sequence->state, SequenceState::kFinished);
  }
  EXPECT_EQ(harness.pool.num_free(), 8);
  EXPECT_EQ(harness.scheduler.num_running() + harness.scheduler.num_waiting(), 0);
}

TEST(MisuseOfTheSchedulerIsABrokenInvariant) {
  SchedulerHarness harness(4, 4, 16);
  Sequence* sequence = harness.Add(6);
  EXPECT_THROW(harness.scheduler.Add(sequence), InvariantError);
  const Batch batch = harness.scheduler.Schedule();
  EXPECT_THROW(harness.scheduler.Schedule(), InvariantError);
  harness.scheduler.Commit(batch);
  EXPECT_THROW(harness.scheduler.Add(sequence), InvariantError);
  EXPECT_THROW(harness.scheduler.Schedule(), InvariantError);  // nothing was appended
  Sequence stranger;
  stranger.request = sequence->request;
  stranger.id = 99;
  EXPECT_THROW(harness.scheduler.Remove(&stranger), InvariantError);
  stranger.tokens.clear();
  EXPECT_THROW(harness.scheduler.Add(&stranger), InvariantError);
  EngineConfig config;
  config.num_pages = 5;
  EXPECT_THROW(Scheduler(config, &harness.pool), InvariantError);
}

TEST(IntegrityCheckSeesTampering) {
  SchedulerHarness harness(8, 4, 16);
  Sequence* first = harness.Add(6);
  Sequence* second = harness.Add(6);
  harness.Step();
  std::swap(first->pages[0], second->pages[1]);
  harness.scheduler.CheckIntegrity();  // still one owner each: only the KV could tell
  const PageId page = first->pages[1];
  first->pages[1] = second->pages[0];
  EXPECT_THROW(harness.scheduler.CheckIntegrity(), InvariantError);
  first->pages[1] = page;
  harness.pool.AddReference(page);
  EXPECT_THROW(harness.scheduler.CheckIntegrity(), InvariantError);
  harness.pool.Release(page);
  first->computed = 3;
  EXPECT_THROW(harness.scheduler.CheckIntegrity(), InvariantError);
  first->computed = 6;
  first->state = SequenceState::kWaiting;
  EXPECT_THROW(harness.scheduler.CheckIntegrity(), InvariantError);
  first->state = SequenceState::kRunning;
  harness.scheduler.CheckIntegrity();
}

}  // namespace
}  // namespace mlc_server::testing
