#pragma once

#include <string>
#include <vector>

namespace mlc_server {

// How a choice's text is told to a client as it comes: the JSON string of the text between two
// constant parts, which together are one server-sent event.
struct EventFormat {
  std::vector<std::string> prefixes;  // one per choice, each up to the string's opening quote
  std::string suffix;                 // from behind its closing quote to the event's empty line
};

}  // namespace mlc_server
