#include "text/vocabulary.h"

#include <utility>

#include "base/check.h"

namespace mlc_server {

Vocabulary::Vocabulary(std::vector<std::string> token_bytes, std::vector<bool> is_special)
    : token_bytes_(std::move(token_bytes)), is_special_(std::move(is_special)) {
  MLC_CHECK(token_bytes_.size() == is_special_.size())
      << token_bytes_.size() << " tokens, " << is_special_.size() << " flags";
}

std::string_view Vocabulary::Bytes(int32_t token_id) const {
  return token_id >= 0 && token_id < size() ? std::string_view(token_bytes_[token_id])
                                            : std::string_view();
}

bool Vocabulary::IsSpecial(int32_t token_id) const {
  return token_id >= 0 && token_id < size() && is_special_[token_id];
}

}  // namespace mlc_server
