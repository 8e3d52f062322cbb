#include "text/utf8_decoder.h"

namespace mlc_server {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

void Utf8Decoder::Push(std::string_view bytes, std::string* text) {
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    if (missing_ > 0) {
      if (byte >= next_min_ && byte <= next_max_) {
        partial_[partial_size_++] = c;
        next_min_ = 0x80;
        next_max_ = 0xBF;
        if (--missing_ == 0) {
          text->append(partial_, partial_size_);
        }
        continue;
      }
      // The subpart ends before this byte, which may itself start a character.
      missing_ = 0;
      text->append(kReplacement);
    }
    Start(byte, text);
  }
}

void Utf8Decoder::Flush(std::string* text) {
  if (missing_ > 0) {
    missing_ = 0;
    text->append(kReplacement);
  }
}

// Well-formed sequences are those of table 3-7 of the Unicode standard.
void Utf8Decoder::Start(uint8_t byte, std::string* text) {
  if (byte < 0x80) {
    text->push_back(static_cast<char>(byte));
    return;
  }
  if (byte < 0xC2 || byte > 0xF4) {
    text->append(kReplacement);
    return;
  }
  partial_[0] = static_cast<char>(byte);
  partial_size_ = 1;
  missing_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  // No overlong forms (E0, F0), no surrogates (ED), nothing above U+10FFFF (F4).
  next_min_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  next_max_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
}

}  // namespace mlc_server
