#include "text/utf8_decoder.h"

#include <random>

#include "reference_text.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

using testing::Decode;

std::string DecodeInPieces(const std::string& bytes, size_t piece) {
  Utf8Decoder decoder;
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += piece) {
    decoder.Push(std::string_view(bytes).substr(i, piece), &text);
  }
  decoder.Flush(&text);
  return text;
}

// Right-hand sides are Python 3.11's bytes.decode("utf-8", errors="replace").
TEST(DecodesAsPythonDoes) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\x80", "\xef\xbf\xbd"},
      {"\xc3", "\xef\xbf\xbd"},
      {"\xc3\xa9", "\xc3\xa9"},
      {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xe0\x80\xaf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xe2\x82", "\xef\xbf\xbd"},
      {"\xe2\x82\x41", "\xef\xbf\xbd\x41"},
      {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xf0\x9f\x98", "\xef\xbf\xbd"},
      {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
      {"\xf0\x80\x80\xaf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xf0\x90\x80\xc3\xa9", "\xef\xbf\xbd\xc3\xa9"},
      {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41",
       "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x41"},
      {"\xf1\x8f\xe0\xf3\x20\xf0\xa0\x20\x80",
       "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x20\xef\xbf\xbd\x20\xef\xbf\xbd"},
      {"\xed\x80\xbf\x80\xf1\xed", "\xed\x80\xbf\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xe0\x9f\xf4\x8f\xef\x20", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x20"},
      {"\xff\xe1\xbf\x90\x80", "\xef\xbf\xbd\xe1\xbf\x90\xef\xbf\xbd"},
  };
  for (const auto& [bytes, expected] : cases) {
    EXPECT_EQ(DecodeInPieces(bytes, 1), expected);
    EXPECT_EQ(DecodeInPieces(bytes, 100), expected);
    EXPECT_EQ(Decode(bytes), expected);
  }
}

TEST(EveryCodePointPassesUnchanged) {
  for (uint32_t c = 1; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) {
      continue;
    }
    const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
    std::string bytes;
    if (c < 0x80) {
      bytes = {static_cast<char>(c)};
    } else if (c < 0x800) {
      bytes = {static_cast<char>(0xC0 | c >> 6), tail(0)};
    } else if (c < 0x10000) {
      bytes = {static_cast<char>(0xE0 | c >> 12), tail(6), tail(0)};
    } else {
      bytes = {static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0)};
    }
    EXPECT_EQ(DecodeInPieces(bytes, 1), bytes);
  }
}

// Bytes at the edges of the ranges of Unicode's table 3-7, in all orders up to 4 long.
TEST(AllShortSequencesOfEdgeBytesMatchTheReference) {
  const std::string edges =
      "\x41\x7F\x80\x8F\x90\x9F\xA0\xBF\xC1\xC2\xDF\xE0\xEC\xED\xEF\xF0\xF3\xF4\xF5";
  std::vector<std::string> sequences = {""};
  for (size_t first = 0, length = 1; length <= 4; ++length) {
    const size_t last = sequences.size();
    for (; first < last; ++first) {
      for (const char edge : edges) {
        sequences.push_back(sequences[first] + edge);
      }
    }
  }
  for (const std::string& bytes : sequences) {
    EXPECT_EQ(DecodeInPieces(bytes, 1), Decode(bytes));
  }
}

}  // namespace
}  // namespace mlc_server
