#include "model/attention_plan.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/cpp_test.h"

namespace mlc_server {
namespace {

// One sequence: rows of this step and tokens of context after it.
struct Shape {
  int32_t rows;
  int32_t context;
};

ModelInput MakeInput(const std::vector<Shape>& shapes) {
  ModelInput input;
  input.query_offsets.push_back(0);
  for (const Shape& shape : shapes) {
    for (int32_t row = 0; row < shape.rows; ++row) {
      input.positions.push_back(shape.context - shape.rows + row);
    }
    input.query_offsets.push_back(static_cast<int32_t>(input.positions.size()));
  }
  return input;
}

AttentionPlan Plan(const std::vector<Shape>& shapes, int32_t threads, int32_t max_items = 4096) {
  AttentionPlan plan;
  PlanAttention(MakeInput(shapes), AttentionPlanLimits{threads, 3, max_items}, &plan);
  return plan;
}

// Every (row, split) of the batch is computed exactly once and every split row is combined once,
// from all of its splits in order.
void ExpectComplete(const std::vector<Shape>& shapes, const AttentionPlan& plan) {
  const ModelInput input = MakeInput(shapes);
  std::vector<int32_t> done(input.positions.size(), 0);  // splits computed of each row
  std::vector<int32_t> written(input.positions.size(), 0);
  const auto sequence_of = [&](int32_t row) {
    return static_cast<int32_t>(
               std::upper_bound(input.query_offsets.begin(), input.query_offsets.end(), row) -
               input.query_offsets.begin()) -
           1;
  };
  const auto splits_of = [&](int32_t row) { return input.positions[row] / kAttentionSplit + 1; };
  for (const AttentionItem& item : plan.items) {
    EXPECT_GE(item.row_count, 1);
    EXPECT_LE(item.row_count, item.split < 0 ? kAttentionRows : 1);
    for (int32_t row = item.first_row; row < item.first_row + item.row_count; ++row) {
      EXPECT_EQ(sequence_of(row), item.sequence);
      if (item.split < 0) {
        done[row] += splits_of(row);
        ++written[row];
      } else {
        EXPECT_LT(item.split, splits_of(row));
        ++done[row];
      }
    }
  }
  for (const CombineItem& combine : plan.combines) {
    EXPECT_EQ(combine.slot_count, splits_of(combine.row));
    for (int32_t split = 0; split < combine.slot_count; ++split) {
      const AttentionItem& item = plan.items[combine.first_slot + split];
      EXPECT_EQ(item.first_row, combine.row);
      EXPECT_EQ(item.split, split);
    }
    ++written[combine.row];
  }
  for (size_t row = 0; row < input.positions.size(); ++row) {
    EXPECT_EQ(done[row], splits_of(static_cast<int32_t>(row)));
    EXPECT_EQ(written[row], 1);
  }
}

TEST(PlanCutsPrefillIntoItemsOfSixteenRows) {
  const AttentionPlan plan = Plan({{40, 40}}, 2);
  EXPECT_EQ(plan.items.size(), size_t{3});
  EXPECT_EQ(plan.items[0].row_count, 16);
  EXPECT_EQ(plan.items[2].first_row, 32);
  EXPECT_EQ(plan.items[2].row_count, 8);
  EXPECT_EQ(plan.items[2].split, -1);
  EXPECT_TRUE(plan.combines.empty());
}

TEST(PlanSplitsOneLongDecode) {
  const AttentionPlan plan = Plan({{1, 1000}}, 2);
  EXPECT_EQ(plan.items.size(), size_t{4});
  EXPECT_EQ(plan.combines.size(), size_t{1});
  EXPECT_EQ(plan.combines[0].slot_count, 4);
  // One thread gains nothing; neither does a context of one split.
  EXPECT_TRUE(Plan({{1, 1000}}, 1).combines.empty());
  EXPECT_TRUE(Plan({{1, kAttentionSplit}}, 2).combines.empty());
  EXPECT_EQ(Plan({{1, kAttentionSplit + 1}}, 2).combines.size(), size_t{1});
}

TEST(PlanLeavesAFullBatchWhole) {
  const std::vector<Shape> shapes(32, Shape{1, 1000});
  const AttentionPlan plan = Plan(shapes, 2);
  EXPECT_EQ(plan.items.size(), size_t{32});
  EXPECT_TRUE(plan.combines.empty());
}

TEST(PlanSplitsTheOneThatTheOthersWouldWaitFor) {
  std::vector<Shape> shapes(8, Shape{1, 300});
  shapes.push_back(Shape{1, 8000});
  const AttentionPlan plan = Plan(shapes, 2);
  EXPECT_EQ(plan.combines.size(), size_t{1});
  EXPECT_EQ(plan.combines[0].row, 8);
  ExpectComplete(shapes, plan);
}

// Three KV heads on two threads take two rounds, in which four rows together cost as much as four
// rows on their own in one and a half; with eight threads five would be idle.
TEST(PlanSplitsAFewRowsWhereThatKeepsMoreThreadsBusy) {
  EXPECT_EQ(Plan({{2, 1000}}, 2).combines.size(), size_t{2});
  EXPECT_EQ(Plan({{2, 1000}}, 2).items.size(), size_t{8});
  EXPECT_TRUE(Plan({{4, 1000}}, 2).combines.empty());
  EXPECT_EQ(Plan({{4, 1000}}, 8).combines.size(), size_t{4});
  EXPECT_TRUE(Plan({{4, kAttentionSplit}}, 8).combines.empty());
  EXPECT_TRUE(Plan({{9, 1000}}, 8).combines.empty());
  EXPECT_TRUE(Plan(std::vector<Shape>(32, Shape{2, 1000}), 2).combines.empty());
  // The first row ends in the first split, the second begins another.
  const AttentionPlan ragged = Plan({{2, kAttentionSplit + 1}}, 2);
  EXPECT_EQ(ragged.items.size(), size_t{3});
  ExpectComplete({{2, kAttentionSplit + 1}}, ragged);
  EXPECT_TRUE(Plan({{2, 1000}}, 2, 7).combines.empty());
}

TEST(PlanKeepsToTheItemLimit) {
  const std::vector<Shape> shapes = {{1, 8000}, {1, 8000}};
  EXPECT_EQ(Plan(shapes, 8, 64).items.size(), size_t{64});
  const AttentionPlan tight = Plan(shapes, 8, 40);
  EXPECT_EQ(tight.items.size(), size_t{33});
  ExpectComplete(shapes, tight);
  EXPECT_EQ(Plan(shapes, 8, 2).items.size(), size_t{2});
  EXPECT_THROW(Plan(shapes, 8, 1), InvariantError);
}

TEST(PlanCoversEveryBatchExactlyOnce) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::vector<Shape> shapes;
    const int count = 1 + static_cast<int>(random() % 12);
    for (int b = 0; b < count; ++b) {
      const int32_t rows = random() % 2 == 0 ? 1 + static_cast<int32_t>(random() % 8)
                                             : 1 + static_cast<int32_t>(random() % 60);
      shapes.push_back({rows, rows + static_cast<int32_t>(random() % 3000)});
    }
    const int32_t threads = 1 + static_cast<int32_t>(random() % 16);
    const int32_t max_items = 60 + static_cast<int32_t>(random() % 100);
    const AttentionPlan plan = Plan(shapes, threads, max_items);
    EXPECT_LE(plan.items.size(), static_cast<size_t>(max_items));
    ExpectComplete(shapes, plan);
  }
}

}  // namespace
}  // namespace mlc_server
