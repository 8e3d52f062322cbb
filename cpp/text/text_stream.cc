#include "text/text_stream.h"

#include <string_view>
#include <utility>

namespace mlc_server {

TextStream::TextStream(const Vocabulary* vocabulary, std::vector<std::string> stop,
                       bool include_stop, bool strip_leading_space)
    : vocabulary_(vocabulary),
      include_stop_(include_stop),
      strip_leading_space_(strip_leading_space),
      matcher_(std::move(stop)) {}

std::string TextStream::Append(int32_t token_id, bool may_stop) {
  std::string text;
  if (ended_ || vocabulary_->IsSpecial(token_id)) {
    return text;
  }
  std::string_view bytes = vocabulary_->Bytes(token_id);
  if (strip_leading_space_ && !bytes.empty()) {
    strip_leading_space_ = false;
    bytes.remove_prefix(bytes.front() == ' ' ? 1 : 0);
  }
  std::string released;
  const bool matched = matcher_.Push(bytes, &released, may_stop);
  decoder_.Push(released, &text);
  if (matched) {
    ended_ = true;
    if (include_stop_) {
      decoder_.Push(matcher_.Held(), &text);
    }
    decoder_.Flush(&text);
  }
  return text;
}

std::string TextStream::Flush() {
  std::string text;
  if (!ended_) {
    ended_ = true;
    decoder_.Push(matcher_.Held(), &text);
    decoder_.Flush(&text);
  }
  return text;
}

}  // namespace mlc_server
