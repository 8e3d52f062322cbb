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

Vocabulary::Vocabulary(const std::vector<std::string>& token_bytes, std::vector<bool> is_special)
    : is_special_(std::move(is_special)) {
  MLC_CHECK(token_bytes.size() == is_special_.size())
      << token_bytes.size() << " tokens, " << is_special_.size() << " flags";
  ends_.reserve(token_bytes.size());
  for (const std::string& token : token_bytes) {
    Append(token);
  }
  bytes_.shrink_to_fit();
}

void Vocabulary::Append(std::string_view token) {
  MLC_CHECK(token.size() < kSpecialBit - bytes_.size()) << "more bytes than can be counted";
  bytes_ += token;
  ends_.push_back(static_cast<uint32_t>(bytes_.size()));
}

std::string_view Vocabulary::Bytes(int32_t token_id) const {
  if (token_id < 0 || token_id >= size()) {
    return {};
  }
  const uint32_t begin = token_id == 0 ? 0 : ends_[token_id - 1];
  return std::string_view(bytes_).substr(begin, ends_[token_id] - begin);
}

bool Vocabulary::IsSpecial(int32_t token_id) const {
  return token_id >= 0 && token_id < size() && is_special_[token_id];
}

std::string Vocabulary::Serialize() const {
  std::vector<uint32_t> words = {static_cast<uint32_t>(ends_.size())};
  for (int32_t id = 0; id < size(); ++id) {
    words.push_back(static_cast<uint32_t>(Bytes(id).size()) | (IsSpecial(id) ? kSpecialBit : 0));
  }
  return std::string(reinterpret_cast<const char*>(words.data()), words.size() * kWordBytes) +
         bytes_;
}

Result<Vocabulary> Vocabulary::Parse(std::string_view serialized) {
  const Error error = {ErrorCode::kInvalidValue, "serialized", "is no vocabulary"};
  if (serialized.size() < kWordBytes ||
      WordAt(serialized, 0) > serialized.size() / kWordBytes - 1) {
    return error;
  }
  if (serialized.size() >= kSpecialBit) {
    return error;
  }
  const size_t count = WordAt(serialized, 0);
  Vocabulary vocabulary;
  vocabulary.ends_.reserve(count);
  vocabulary.is_special_.reserve(count);
  std::string_view rest = serialized.substr((count + 1) * kWordBytes);
  for (size_t id = 0; id < count; ++id) {
    const uint32_t word = WordAt(serialized, id + 1);
    const size_t size = word & ~kSpecialBit;
    if (size > rest.size()) {
      return error;
    }
    vocabulary.Append(rest.substr(0, size));
    vocabulary.is_special_.push_back((word & kSpecialBit) != 0);
    rest.remove_prefix(size);
  }
  if (!rest.empty()) {
    return error;
  }
  vocabulary.bytes_.shrink_to_fit();
  return vocabulary;
}

}  // namespace mlc_server
