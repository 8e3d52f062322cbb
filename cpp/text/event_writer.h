#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/event_format.h"

namespace mlc_server {

// The event that tells `text` (valid UTF-8) of choice `choice`, as a chunk of an HTTP/1.1 body:
// length in hexadecimal digits, CRLF, event, CRLF. In the string only what JSON demands is escaped,
// in the shortest way: `\"`, `\\`, \b \f \n \r \t, and \u00xx for other control characters.
std::string WriteEventChunk(const EventFormat& format, int32_t choice, std::string_view text);

}  // namespace mlc_server
