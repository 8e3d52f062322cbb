// The model's tables say exactly what the scheduler's batch says.

#include "engine/batch_builder.h"

#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

Sequence MakeSequence(std::vector<int32_t> tokens, std::vector<PageId> pages) {
  Sequence sequence;
  sequence.request = std::make_shared<const Request>();
  sequence.tokens = std::move(tokens);
  sequence.pages = std::move(pages);
  return sequence;
}

TEST(BatchBuilderLaysOutDecodeAndPrefill) {
  Sequence decoding = MakeSequence({10, 11, 12, 13, 14}, {7, 3});
  Sequence prefilling = MakeSequence({20, 21, 22, 23, 24, 25}, {5, 9});
  Batch batch;
  batch.entries = {{&decoding, 4, 1, true}, {&prefilling, 2, 3, false}};
  ModelInput input;
  input.token_ids = {99};  // leftovers of the step before
  BuildModelInput(batch, 4, &input);
  EXPECT_EQ(input.token_ids, (std::vector<int32_t>{14, 22, 23, 24}));
  EXPECT_EQ(input.positions, (std::vector<int32_t>{4, 2, 3, 4}));
  EXPECT_EQ(input.write_slots, (std::vector<int32_t>{12, 22, 23, 36}));
  EXPECT_EQ(input.query_offsets, (std::vector<int32_t>{0, 1, 4}));
  EXPECT_EQ(input.page_offsets, (std::vector<int32_t>{0, 2, 4}));
  EXPECT_EQ(input.page_table, (std::vector<int32_t>{7, 3, 5, 9}));
  EXPECT_EQ(input.logit_rows, (std::vector<int32_t>{0}));
}

TEST(BatchBuilderLaysDraftsOutAfterTheirToken) {
  Sequence drafting = MakeSequence({10, 11, 12}, {7, 3});
  drafting.drafts = {50, 51, 52};
  Sequence decoding = MakeSequence({20, 21}, {5});
  Batch batch;
  batch.entries = {{&drafting, 2, 1, true, 2}, {&decoding, 1, 1, true}};
  ModelInput input;
  BuildModelInput(batch, 4, &input);
  EXPECT_EQ(input.token_ids, (std::vector<int32_t>{12, 50, 51, 21}));
  EXPECT_EQ(input.positions, (std::vector<int32_t>{2, 3, 4, 1}));
  EXPECT_EQ(input.write_slots, (std::vector<int32_t>{30, 31, 12, 21}));
  EXPECT_EQ(input.page_table, (std::vector<int32_t>{7, 3, 5}));
  EXPECT_EQ(input.logit_rows, (std::vector<int32_t>{0, 1, 2, 3}));
  batch.entries = {{&drafting, 2, 1, true, 4}};  // there are three
  EXPECT_THROW(BuildModelInput(batch, 4, &input), InvariantError);
  batch.entries = {{&drafting, 1, 1, false, 1}};  // not at the end of the tokens
  EXPECT_THROW(BuildModelInput(batch, 4, &input), InvariantError);
}

TEST(BatchBuilderPutsScoredRowsBeforeTheLast) {
  Sequence decoding = MakeSequence({20, 21}, {5});
  Sequence scored = MakeSequence({10, 11, 12, 13, 14, 15}, {7, 3});
  Batch batch;
  batch.entries = {{&decoding, 1, 1, true}, {&scored, 1, 5, true, 0, 2, 3}};
  ModelInput input;
  BuildModelInput(batch, 4, &input);
  EXPECT_EQ(input.token_ids, (std::vector<int32_t>{21, 11, 12, 13, 14, 15}));
  EXPECT_EQ(input.logit_rows, (std::vector<int32_t>{0, 2, 3, 4, 5}));
  batch.entries = {{&scored, 1, 3, false, 0, 1, 3}};
  BuildModelInput(batch, 4, &input);
  EXPECT_EQ(input.logit_rows, (std::vector<int32_t>{0, 1, 2}));
  batch.entries = {{&scored, 1, 3, false, 0, 0, 2}};  // token 0 does not run
  EXPECT_THROW(BuildModelInput(batch, 4, &input), InvariantError);
  batch.entries = {{&scored, 1, 3, false, 0, 2, 3}};  // nor does token 4
  EXPECT_THROW(BuildModelInput(batch, 4, &input), InvariantError);
  batch.entries = {{&scored, 1, 5, true, 0, 2, 4}};  // nothing follows token 5
  EXPECT_THROW(BuildModelInput(batch, 4, &input), InvariantError);
}

TEST(BatchBuilderNamesOnlyPagesInUse) {
  Sequence sequence = MakeSequence(std::vector<int32_t>(12, 5), {1, 2, 3});
  Batch batch;
  batch.entries = {{&sequence, 0, 4, false}};
  ModelInput input;
  BuildModelInput(batch, 4, &input);
  EXPECT_EQ(input.page_table, (std::vector<int32_t>{1}));
  EXPECT_EQ(input.logit_rows, (std::vector<int32_t>{3}));  // nobody asked; runners need one
}

TEST(BatchBuilderRefusesBatchesWithoutPagesOrTokens) {
  Sequence sequence = MakeSequence({1, 2, 3, 4, 5}, {0});
  ModelInput input;
  Batch batch;
  EXPECT_THROW(BuildModelInput(batch, 4, &input), InvariantError);
  batch.entries = {{&sequence, 0, 5, true}};  // two pages needed
  EXPECT_THROW(BuildModelInput(batch, 4, &input), InvariantError);
  batch.entries = {{&sequence, 3, 3, true}};  // five tokens only
  EXPECT_THROW(BuildModelInput(batch, 2, &input), InvariantError);
}

}  // namespace
}  // namespace mlc_server::testing
