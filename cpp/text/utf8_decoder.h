#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mlc_server {

// Turns a stream of arbitrary bytes into valid UTF-8. Each maximal subpart of an ill-formed
// sequence becomes one U+FFFD: Unicode 16, section 3.9; the WHATWG decoder; Python's
// bytes.decode("utf-8", errors="replace").
class Utf8Decoder {
 public:
  // Appends to `text` what became certain. A character's first bytes are held back, at most 3.
  void Push(std::string_view bytes, std::string* text);
  // Ends the stream: a character that is still incomplete becomes one U+FFFD.
  void Flush(std::string* text);

 private:
  // The character being read: its bytes so far, how many are missing, and the range the next one
  // must be in (narrower than 80..BF after some lead bytes).
  char partial_[4] = {};
  int32_t partial_size_ = 0;
  int32_t missing_ = 0;
  uint8_t next_min_ = 0x80;
  uint8_t next_max_ = 0xBF;

  void Start(uint8_t byte, std::string* text);
};

}  // namespace mlc_server
