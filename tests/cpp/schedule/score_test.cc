// Prompts that are scored: how they are cut, who goes first, and that preemption repeats nothing.

#include "scheduler_harness.h"

namespace mlc_server::testing {
namespace {

using Text = std::string;

std::shared_ptr<const Request> Scored(int32_t prompt_length, int32_t num_choices = 1) {
  auto request = SchedulerHarness::MakeRequest(prompt_length, num_choices);
  request->sampling.prompt_logprobs = 0;
  return request;
}

TEST(ScoredPromptRunsInChunksOfTheRowsThereAre) {
  SchedulerHarness harness(/*num_pages=*/16, /*max_batch_size=*/4, /*prefill_chunk_size=*/32,
                           /*scored_rows_max=*/6);
  harness.Add(Scored(14));
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+6(0+6)"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:6+6(6+6)"));
  // Nothing follows the prompt's last token, so its row scores nothing.
  EXPECT_EQ(Describe(harness.Step()), Text("1:12+2(12+1)!"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:14+1!"));
}

TEST(RowsGoByOrderAndOthersPassThoseThatGetNone) {
  SchedulerHarness harness(32, 8, 64, 6);
  harness.Add(Scored(9));
  harness.Add(Scored(5));
  harness.Add(Scored(5));
  harness.Add(3);
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+6(0+6) 4:0+3!"));
  EXPECT_EQ(Describe(harness.Step()), Text("4:3+1! 1:6+3(6+2)! 2:0+5(0+4)!"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:9+1! 2:5+1! 4:4+1! 3:0+5(0+4)!"));
}

TEST(APromptWithoutASecondTokenNeedsNoRows) {
  SchedulerHarness harness(32, 8, 64, 6);
  harness.Add(Scored(20));
  harness.Add(Scored(1));
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+1! 1:0+6(0+6)"));
}

TEST(WhatWasScoredBeforeAPreemptionIsNotScoredAgain) {
  SchedulerHarness harness(/*num_pages=*/6, 8, 64, 6);
  Sequence* first = harness.Add(7);  // two pages, and a third for the ninth token
  Sequence* second = harness.Add(Scored(10));
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+7! 2:0+6(0+6)"));
  EXPECT_EQ(second->scored, 6);
  harness.Step();
  Batch batch = harness.Step();
  while (batch.preempted.empty()) {
    batch = harness.Step();
  }
  EXPECT_EQ(second->scored, 9);
  harness.scheduler.Remove(first);
  EXPECT_EQ(harness.Step().entries[0].num_scored, 0);
}

TEST(AHalfScoredPromptGoesOnWhereItWas) {
  SchedulerHarness harness(/*num_pages=*/6, 8, 64, 4);
  Sequence* second = harness.Add(Scored(20), /*id=*/2);
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+4(0+4)"));
  EXPECT_EQ(Describe(harness.Step()), Text("2:4+4(4+4)"));
  Sequence* first = harness.Add(SchedulerHarness::MakeRequest(21), /*id=*/1);
  EXPECT_EQ(PreemptedIds(harness.Step()), std::vector<SequenceId>{2});
  EXPECT_EQ(second->scored, 8);
  harness.scheduler.Remove(first);
  EXPECT_EQ(Describe(harness.Step()), Text("2:0+12(8+4)"));
  EXPECT_EQ(Describe(harness.Step()), Text("2:12+4(12+4)"));
  EXPECT_EQ(Describe(harness.Step()), Text("2:16+4(16+3)!"));
}

TEST(ChoicesWaitForTheOneThatScores) {
  SchedulerHarness harness(32, 8, 64, 6);
  harness.Add(Scored(9));
  const auto request = Scored(9, 3);
  for (int32_t choice = 0; choice < 3; ++choice) {
    harness.Add(request, 0, choice);
  }
  EXPECT_EQ(Describe(harness.Step()), Text("1:0+6(0+6)"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:6+3(6+2)! 2:0+4(0+4)"));
  EXPECT_EQ(Describe(harness.Step()), Text("1:9+1! 2:4+5(4+4)!"));
  // Two whole pages are shared; the others run only what is after them, and score nothing.
  EXPECT_EQ(Describe(harness.Step()), Text("1:10+1! 2:9+1! 3:8+1! 4:8+1!"));
}

}  // namespace
}  // namespace mlc_server::testing
