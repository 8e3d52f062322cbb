#include "core/validation.h"

#include <sstream>

namespace mlc_server {

namespace {

template <typename T>
Error OutOfRange(const std::string& param, T value, const char* open, T low, T high) {
  std::ostringstream message;
  message << param << " must be in " << open << low << ", " << high << "], got " << value;
  return {ErrorCode::kInvalidValue, param, message.str()};
}

}  // namespace

Status CheckIntRange(const std::string& param, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) {
    return std::nullopt;
  }
  return OutOfRange(param, value, "[", low, high);
}

Status CheckRange(const std::string& param, double value, double low, double high) {
  if (value >= low && value <= high) {
    return std::nullopt;
  }
  return OutOfRange(param, value, "[", low, high);
}

Status CheckRangeAbove(const std::string& param, double value, double low, double high) {
  if (value > low && value <= high) {
    return std::nullopt;
  }
  return OutOfRange(param, value, "(", low, high);
}

Status CheckCount(const std::string& param, size_t count, size_t limit) {
  if (count <= limit) {
    return std::nullopt;
  }
  return Error{ErrorCode::kInvalidValue, param,
               param + " may have at most " + std::to_string(limit) + " entries, got " +
                   std::to_string(count)};
}

Status CheckTokenId(const std::string& param, int32_t token_id, int32_t vocab_size) {
  if (token_id >= 0 && token_id < vocab_size) {
    return std::nullopt;
  }
  return Error{ErrorCode::kInvalidValue, param,
               param + " must hold token ids in [0, " + std::to_string(vocab_size) + "), got " +
                   std::to_string(token_id)};
}

Status CheckTokenIds(const std::string& param, const std::vector<int32_t>& token_ids,
                     int32_t vocab_size) {
  for (int32_t token_id : token_ids) {
    if (Status status = CheckTokenId(param, token_id, vocab_size)) {
      return status;
    }
  }
  return std::nullopt;
}

Status FirstError(std::initializer_list<Status> checks) {
  for (const Status& status : checks) {
    if (status) {
      return status;
    }
  }
  return std::nullopt;
}

}  // namespace mlc_server
