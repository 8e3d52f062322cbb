#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/result.h"

namespace mlc_server {

// Building blocks of the Validate() functions. Each returns kInvalidValue with `param` and a
// message that names the limit and the value seen, or nullopt. NaN is in no range.

// low <= value <= high.
Status CheckIntRange(const std::string& param, int64_t value, int64_t low, int64_t high);
Status CheckRange(const std::string& param, double value, double low, double high);
// low < value <= high.
Status CheckRangeAbove(const std::string& param, double value, double low, double high);
// At most `limit` entries in a list.
Status CheckCount(const std::string& param, size_t count, size_t limit);
// 0 <= id < vocab_size.
Status CheckTokenId(const std::string& param, int32_t token_id, int32_t vocab_size);
Status CheckTokenIds(const std::string& param, const std::vector<int32_t>& token_ids,
                     int32_t vocab_size);

// The first refusal, or nullopt when every check passed.
Status FirstError(std::initializer_list<Status> checks);

}  // namespace mlc_server
