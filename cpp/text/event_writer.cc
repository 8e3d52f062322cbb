#include "text/event_writer.h"

#include <charconv>

#include "base/check.h"

namespace mlc_server {
namespace {

constexpr char kHexDigits[] = "0123456789abcdef";

// What follows the backslash; 0 if `byte` stands for itself, 'u' if it is written by number.
char Escape(unsigned char byte) {
  switch (byte) {
    case '"':
    case '\\':
      return static_cast<char>(byte);
    case '\b':
      return 'b';
    case '\f':
      return 'f';
    case '\n':
      return 'n';
    case '\r':
      return 'r';
    case '\t':
      return 't';
    default:
      return byte < 0x20 ? 'u' : '\0';
  }
}

void AppendJsonString(std::string_view text, std::string* out) {
  out->push_back('"');
  for (const char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    const char escape = Escape(byte);
    if (escape == '\0') {
      out->push_back(character);
      continue;
    }
    out->push_back('\\');
    out->push_back(escape);
    if (escape == 'u') {
      out->append({'0', '0', kHexDigits[byte >> 4], kHexDigits[byte & 15]});
    }
  }
  out->push_back('"');
}

}  // namespace

std::string WriteEventChunk(const EventFormat& format, int32_t choice, std::string_view text) {
  MLC_CHECK(choice >= 0 && static_cast<size_t>(choice) < format.prefixes.size())
      << "choice " << choice << " of " << format.prefixes.size() << " has no prefix";
  const std::string& prefix = format.prefixes[choice];
  std::string event;
  event.reserve(prefix.size() + text.size() + format.suffix.size() + 8);
  event += prefix;
  AppendJsonString(text, &event);
  event += format.suffix;

  char digits[16];
  char* const end = std::to_chars(digits, digits + sizeof(digits), event.size(), 16).ptr;
  std::string chunk;
  chunk.reserve(event.size() + sizeof(digits) + 4);
  chunk.append(digits, end).append("\r\n").append(event).append("\r\n");
  return chunk;
}

}  // namespace mlc_server
