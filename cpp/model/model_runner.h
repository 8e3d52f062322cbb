#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"

namespace mlc_server {

// Facts about the loaded model that the engine sizes itself by.
struct ModelInfo {
  int32_t vocab_size = 0;
  int32_t page_size = 0;       // tokens per KV page
  int32_t max_rows = 0;        // most tokens in one Run()
  int32_t max_logit_rows = 0;  // most logit rows in one Run()
  int32_t context_window = 0;  // longest sequence the model was made for, tokens
  int64_t bytes_per_page = 0;  // KV bytes of one page over all layers
  int64_t weight_bytes = 0;    // resident bytes of the packed weights
};

// One step's mixed batch in plain tables. M rows (tokens), B sequences, L logit rows, C copies.
// Rows of sequence b are [query_offsets[b], query_offsets[b + 1]), at consecutive positions.
struct ModelInput {
  std::vector<int32_t> token_ids;      // [M]
  std::vector<int32_t> positions;      // [M] index of the token in its sequence
  std::vector<int32_t> write_slots;    // [M] page * page_size + offset where the row's KV goes
  std::vector<int32_t> query_offsets;  // [B + 1]
  std::vector<int32_t> page_offsets;   // [B + 1] into page_table
  std::vector<int32_t> page_table;     // [P] pages of each sequence in order
  std::vector<int32_t> logit_rows;     // [L] rows whose next-token logits are wanted
  // [2 C] pages from, to, from, to ...: copied whole in this order, before any row is written.
  std::vector<int32_t> page_copies;
  void Clear();
};

// Logits of one Run(): `rows` x `vocab_size` floats, row-major, valid until the next Run().
struct LogitsView {
  const float* data = nullptr;
  int32_t rows = 0;
  int32_t vocab_size = 0;
};

// Runs the model over a batch and owns the KV memory. Not thread-safe: the engine thread owns it.
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual const ModelInfo& info() const = 0;
  // Takes memory for `num_pages` KV pages, in place of those it had: once for each engine that it
  // serves, before its first Run().
  virtual Status AllocateKv(int32_t num_pages) = 0;
  // Writes the rows' KV into their slots and computes logits for `logit_rows`.
  // A row's result depends on its sequence's tokens alone, never on the rest of the batch.
  virtual LogitsView Run(const ModelInput& input) = 0;
};

}  // namespace mlc_server
