#include "model/attention_plan.h"

#include <algorithm>
#include <cstddef>

#include "base/check.h"

namespace mlc_server {
namespace {

// Units of work that each thread should find: with fewer, the last one to finish is waited for.
constexpr int64_t kUnitsPerThread = 4;

// Rows that the kernel works on together, and what they cost together, in rows on their own.
constexpr int64_t kBlockRows = 4;
constexpr int64_t kBlockCost = 2;
// Most rows of a sequence that may be split.
constexpr int64_t kMaxSplitRows = 8;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct BatchWork {
  int64_t context_tokens = 0;  // over all rows
  int64_t whole_items = 0;     // items when nothing is split
};

BatchWork Measure(const ModelInput& input) {
  BatchWork work;
  for (const int32_t position : input.positions) {
    work.context_tokens += position + 1;
  }
  for (size_t b = 0; b + 1 < input.query_offsets.size(); ++b) {
    const int32_t rows = input.query_offsets[b + 1] - input.query_offsets[b];
    work.whole_items += DivideUp(rows, kAttentionRows);
  }
  return work;
}

// Items that sequence `b` takes when each of its rows is split.
int64_t CountSplits(const ModelInput& input, size_t b) {
  int64_t count = 0;
  for (int32_t row = input.query_offsets[b]; row < input.query_offsets[b + 1]; ++row) {
    count += DivideUp(input.positions[row] + int64_t{1}, kAttentionSplit);
  }
  return count;
}

// Whether rows at the end of `context` tokens are done sooner in splits than whole. `largest_unit`
// is what a thread may take on at once without being waited for.
bool ShouldSplit(int64_t rows, int64_t context, int64_t largest_unit,
                 const AttentionPlanLimits& limits) {
  if (limits.num_threads == 1 || context <= kAttentionSplit || rows > kMaxSplitRows) {
    return false;
  }
  if (rows == 1) {
    return context > largest_unit;
  }
  // Splitting gives up working on rows together, so it must keep more threads busy.
  const int64_t whole_unit = kBlockCost * DivideUp(rows, kBlockRows);
  const int64_t rounds = DivideUp(limits.num_kv_heads, limits.num_threads);
  return whole_unit * context > largest_unit &&
         rows * limits.num_kv_heads < whole_unit * rounds * limits.num_threads;
}

void AddWholeItems(int32_t sequence, int32_t first_row, int32_t last_row, AttentionPlan* plan) {
  for (int32_t row = first_row; row < last_row; row += kAttentionRows) {
    plan->items.push_back(
        AttentionItem{sequence, row, std::min(kAttentionRows, last_row - row), -1});
  }
}

void AddSplits(int32_t sequence, int32_t row, int64_t num_splits, AttentionPlan* plan) {
  const auto first_slot = static_cast<int32_t>(plan->items.size());
  for (int32_t split = 0; split < num_splits; ++split) {
    plan->items.push_back(AttentionItem{sequence, row, 1, split});
  }
  plan->combines.push_back(CombineItem{row, first_slot, static_cast<int32_t>(num_splits)});
}

}  // namespace

void PlanAttention(const ModelInput& input, const AttentionPlanLimits& limits,
                   AttentionPlan* plan) {
  plan->items.clear();
  plan->combines.clear();
  const BatchWork work = Measure(input);
  MLC_CHECK(work.whole_items <= limits.max_items)
      << "attention needs " << work.whole_items << " items, the library takes " << limits.max_items;
  // Items that may still be added by splitting.
  int64_t spare_items = limits.max_items - work.whole_items;
  // A whole row is kv_heads units of `context` tokens each; one that is larger than this share of
  // all the work is cut.
  const int64_t largest_unit = work.context_tokens * limits.num_kv_heads /
                               (kUnitsPerThread * std::max(1, limits.num_threads));
  for (size_t b = 0; b + 1 < input.query_offsets.size(); ++b) {
    const int32_t first_row = input.query_offsets[b];
    const int32_t last_row = input.query_offsets[b + 1];
    const int64_t context = input.positions[last_row - 1] + int64_t{1};
    const auto sequence = static_cast<int32_t>(b);
    // Splits take the place of one whole item.
    if (!ShouldSplit(last_row - first_row, context, largest_unit, limits) ||
        CountSplits(input, b) - 1 > spare_items) {
      AddWholeItems(sequence, first_row, last_row, plan);
      continue;
    }
    spare_items -= CountSplits(input, b) - 1;
    for (int32_t row = first_row; row < last_row; ++row) {
      AddSplits(sequence, row, DivideUp(input.positions[row] + int64_t{1}, kAttentionSplit), plan);
    }
  }
}

}  // namespace mlc_server
