#pragma once

#include <cstdint>
#include <vector>

#include "model/model_runner.h"

namespace mlc_server {

// Context tokens of one split: the unit of work that the attention kernel may hand to a thread of
// its own. Splits start at multiples of it, so how a row is cut never depends on the batch.
inline constexpr int32_t kAttentionSplit = 256;
// Most rows of one item that takes all splits.
inline constexpr int32_t kAttentionRows = 16;

// One unit of the attention kernel's outer loop (times KV heads).
struct AttentionItem {
  int32_t sequence = 0;
  int32_t first_row = 0;  // row of the batch
  int32_t row_count = 0;  // 1 to kAttentionRows; 1 when split >= 0
  // -1: every split of each row is computed and merged, the final output written.
  // >= 0: this split only; its partial result goes to the slot with the item's own index.
  int32_t split = -1;
};

// Merges the partial results in slots [first_slot, first_slot + slot_count), in order, into the
// output of `row`.
struct CombineItem {
  int32_t row = 0;
  int32_t first_slot = 0;
  int32_t slot_count = 0;
};

// How one batch's attention is divided. Results do not depend on it: each split is a softmax of its
// own, and merging is the same sequence of operations wherever it happens (see "Flash-Decoding",
// https://crfm.stanford.edu/2023/10/12/flashdecoding.html, with splits at fixed positions).
struct AttentionPlan {
  std::vector<AttentionItem> items;
  std::vector<CombineItem> combines;
};

struct AttentionPlanLimits {
  int32_t num_threads = 1;
  int32_t num_kv_heads = 1;
  int32_t max_items = 4096;
};

// Rewrites `plan` for `input`, a valid batch. A sequence of one row, or of a few (a token
// and the guesses after it), whose context spans several splits is cut into them when its share of
// the batch's work would keep the other threads waiting; all other rows go in items of up to
// kAttentionRows rows. Never more than `max_items` items,
// provided that whole items alone fit.
void PlanAttention(const ModelInput& input, const AttentionPlanLimits& limits, AttentionPlan* plan);

}  // namespace mlc_server
