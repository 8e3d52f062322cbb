// Events are what a JSON writer makes of the text, in chunks whose sizes are right.

#include "text/event_writer.h"

#include <string>

#include "base/check.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

const EventFormat kFormat = {{"data: {\"a\":", "data: {\"b\":"}, "}\n\n"};

TEST(EventWriterPutsTheTextBetweenItsParts) {
  EXPECT_EQ(WriteEventChunk(kFormat, 0, "hi"), "12\r\ndata: {\"a\":\"hi\"}\n\n\r\n");
  EXPECT_EQ(WriteEventChunk(kFormat, 1, ""), "10\r\ndata: {\"b\":\"\"}\n\n\r\n");
}

TEST(EventWriterEscapesWhatJsonDemandsAndNothingElse) {
  const EventFormat bare = {{""}, ""};
  EXPECT_EQ(WriteEventChunk(bare, 0, "\"\\/"), "7\r\n\"\\\"\\\\/\"\r\n");
  EXPECT_EQ(WriteEventChunk(bare, 0, "\b\f\n\r\t"), "c\r\n\"\\b\\f\\n\\r\\t\"\r\n");
  const std::string controls("\0\x1f\x7f", 3);
  EXPECT_EQ(WriteEventChunk(bare, 0, controls), "f\r\n\"\\u0000\\u001f\x7f\"\r\n");
  EXPECT_EQ(WriteEventChunk(bare, 0, "\xe2\x98\x83"), "5\r\n\"\xe2\x98\x83\"\r\n");
}

TEST(EventWriterCountsBytesInHexadecimal) {
  const EventFormat bare = {{""}, ""};
  for (const size_t length : {1, 13, 14, 253, 254, 4093, 4094, 70000}) {
    const std::string chunk = WriteEventChunk(bare, 0, std::string(length, 'x'));
    const size_t line_end = chunk.find("\r\n");
    EXPECT_EQ(std::stoul(chunk.substr(0, line_end), nullptr, 16), length + 2);
    EXPECT_EQ(chunk.size(), line_end + length + 6);
  }
}

TEST(EventWriterNeedsAPrefixForTheChoice) {
  EXPECT_THROW(WriteEventChunk(kFormat, 2, "x"), InvariantError);
}

}  // namespace
}  // namespace mlc_server::testing
