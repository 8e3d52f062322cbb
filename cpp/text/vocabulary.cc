#include "text/vocabulary.h"

#include <cstring>
#include <utility>

#include "base/check.h"

namespace mlc_server {
namespace {

// Before the bytes of all tokens: their number, then for each its size and whether it is special.
constexpr size_t kWordBytes = sizeof(uint32_t);
constexpr uint32_t kSpecialBit = 1u << 31;

uint32_t WordAt(std::string_view text, size_t index) {
  uint32_t word;
  std::memcpy(&word, text.data() + index * kWordBytes, kWordBytes);
  return word;
}

}  // namespace

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

std::string Vocabulary::Serialize() const {
  std::vector<uint32_t> words = {static_cast<uint32_t>(token_bytes_.size())};
  std::string bytes;
  for (size_t id = 0; id < token_bytes_.size(); ++id) {
    MLC_CHECK(token_bytes_[id].size() < kSpecialBit);
    words.push_back(static_cast<uint32_t>(token_bytes_[id].size()) |
                    (is_special_[id] ? kSpecialBit : 0));
    bytes += token_bytes_[id];
  }
  return std::string(reinterpret_cast<const char*>(words.data()), words.size() * kWordBytes) +
         bytes;
}

Result<Vocabulary> Vocabulary::Parse(std::string_view serialized) {
  const Error error = {ErrorCode::kInvalidValue, "serialized", "is no vocabulary"};
  if (serialized.size() < kWordBytes ||
      WordAt(serialized, 0) > serialized.size() / kWordBytes - 1) {
    return error;
  }
  const size_t count = WordAt(serialized, 0);
  std::vector<std::string> token_bytes;
  std::vector<bool> is_special;
  token_bytes.reserve(count);
  is_special.reserve(count);
  std::string_view rest = serialized.substr((count + 1) * kWordBytes);
  for (size_t id = 0; id < count; ++id) {
    const uint32_t word = WordAt(serialized, id + 1);
    const size_t size = word & ~kSpecialBit;
    if (size > rest.size()) {
      return error;
    }
    token_bytes.emplace_back(rest.substr(0, size));
    is_special.push_back((word & kSpecialBit) != 0);
    rest.remove_prefix(size);
  }
  if (!rest.empty()) {
    return error;
  }
  return Vocabulary(std::move(token_bytes), std::move(is_special));
}

}  // namespace mlc_server
