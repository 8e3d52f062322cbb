#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mlc_server {

// The bytes each token stands for. Special tokens stand for no text unless asked for.
// Immutable and shared by every stream.
class Vocabulary {
 public:
  // `token_bytes[id]` are the raw bytes (a token may be part of a UTF-8 character);
  // `is_special[id]` marks control tokens, which are left out of generated text.
  Vocabulary(const std::vector<std::string>& token_bytes, std::vector<bool> is_special);
  int32_t size() const { return static_cast<int32_t>(ends_.size()); }
  // Ids beyond the vocabulary (padded logits) stand for nothing.
  std::string_view Bytes(int32_t token_id) const;
  bool IsSpecial(int32_t token_id) const;

  // The whole of it for another process of this machine, and back. Error kInvalidValue for what
  // Serialize() did not make.
  std::string Serialize() const;
  static Result<Vocabulary> Parse(std::string_view serialized);

 private:
  Vocabulary() = default;
  void Append(std::string_view token);

  std::string bytes_;           // of all tokens, one after the other
  std::vector<uint32_t> ends_;  // [id], where in bytes_ it ends
  std::vector<bool> is_special_;
};

}  // namespace mlc_server
