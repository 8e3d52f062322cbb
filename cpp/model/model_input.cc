#include "model/model_input.h"

#include <string>
#include <unordered_set>
#include <vector>

namespace mlc_server {
namespace {

Status Invalid(const char* param, const std::string& message) {
  return Error{ErrorCode::kInvalidValue, param, message};
}

std::string Seen(int64_t value) { return ", got " + std::to_string(value); }

// `offsets` starts at 0, ends at `total` and every one of its parts holds at least one element.
Status ValidateOffsets(const char* param, const std::vector<int32_t>& offsets, size_t total) {
  if (offsets.size() < 2 || offsets.front() != 0 || static_cast<size_t>(offsets.back()) != total) {
    return Invalid(param, "must run from 0 to " + std::to_string(total));
  }
  for (size_t part = 0; part + 1 < offsets.size(); ++part) {
    if (offsets[part] >= offsets[part + 1]) {
      return Invalid(param, "must increase, but part " + std::to_string(part) + " is empty");
    }
  }
  return std::nullopt;
}

Status ValidateIds(const char* param, const std::vector<int32_t>& ids, int32_t limit) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= limit) {
      return Invalid(param, "must be in [0, " + std::to_string(limit) + ")" + Seen(id));
    }
  }
  return std::nullopt;
}

Status ValidateSizes(const ModelInput& input, const ModelInfo& info) {
  const size_t rows = input.token_ids.size();
  if (rows == 0 || rows > static_cast<size_t>(info.max_rows)) {
    return Invalid("token_ids", "must hold 1 to " + std::to_string(info.max_rows) + " rows" +
                                    Seen(static_cast<int64_t>(rows)));
  }
  if (input.positions.size() != rows || input.write_slots.size() != rows) {
    return Invalid("positions", "positions and write_slots must be as long as token_ids");
  }
  const size_t logit_rows = input.logit_rows.size();
  if (logit_rows == 0 || logit_rows > static_cast<size_t>(info.max_logit_rows)) {
    return Invalid("logit_rows", "must hold 1 to " + std::to_string(info.max_logit_rows) + " rows" +
                                     Seen(static_cast<int64_t>(logit_rows)));
  }
  if (input.query_offsets.size() != input.page_offsets.size()) {
    return Invalid("page_offsets", "must be as long as query_offsets");
  }
  return std::nullopt;
}

// Positions of sequence `b` are consecutive and its rows are written where its page table says.
Status ValidateSequence(const ModelInput& input, size_t b, int32_t page_size,
                        std::unordered_set<int32_t>* written) {
  const int32_t first_page = input.page_offsets[b];
  const int32_t capacity = (input.page_offsets[b + 1] - first_page) * page_size;
  const int32_t first_row = input.query_offsets[b];
  for (int32_t row = first_row; row < input.query_offsets[b + 1]; ++row) {
    const int32_t position = input.positions[row];
    if (position < 0 || position >= capacity ||
        position != input.positions[first_row] + row - first_row) {
      return Invalid("positions", "must be consecutive and inside the sequence's " +
                                      std::to_string(capacity) + " slots" + Seen(position));
    }
    const int32_t page = input.page_table[first_page + position / page_size];
    const int32_t slot = page * page_size + position % page_size;
    if (input.write_slots[row] != slot) {
      return Invalid("write_slots", "row " + std::to_string(row) + " belongs in slot " +
                                        std::to_string(slot) + Seen(input.write_slots[row]));
    }
    if (!written->insert(slot).second) {
      return Invalid("write_slots", "slot " + std::to_string(slot) + " is written twice");
    }
  }
  return std::nullopt;
}

}  // namespace

void ModelInput::Clear() {
  token_ids.clear();
  positions.clear();
  write_slots.clear();
  query_offsets.clear();
  page_offsets.clear();
  page_table.clear();
  logit_rows.clear();
  page_copies.clear();
}

Status ValidateModelInput(const ModelInput& input, const ModelInfo& info, int32_t num_pages) {
  if (Status status = ValidateSizes(input, info)) {
    return status;
  }
  const size_t rows = input.token_ids.size();
  if (Status status = ValidateOffsets("query_offsets", input.query_offsets, rows)) {
    return status;
  }
  if (Status status =
          ValidateOffsets("page_offsets", input.page_offsets, input.page_table.size())) {
    return status;
  }
  if (Status status = ValidateIds("token_ids", input.token_ids, info.vocab_size)) {
    return status;
  }
  if (Status status = ValidateIds("page_table", input.page_table, num_pages)) {
    return status;
  }
  if (Status status = ValidateIds("logit_rows", input.logit_rows, static_cast<int32_t>(rows))) {
    return status;
  }
  if (input.page_copies.size() % 2 != 0) {
    return Invalid("page_copies",
                   "must hold pairs" + Seen(static_cast<int64_t>(input.page_copies.size())));
  }
  if (Status status = ValidateIds("page_copies", input.page_copies, num_pages)) {
    return status;
  }
  std::unordered_set<int32_t> written;
  for (size_t b = 0; b + 1 < input.query_offsets.size(); ++b) {
    if (Status status = ValidateSequence(input, b, info.page_size, &written)) {
      return status;
    }
  }
  return std::nullopt;
}

}  // namespace mlc_server
