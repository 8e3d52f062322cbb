#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/vocabulary.h"

namespace mlc_server {

// Turns one sequence's tokens into text that is always valid UTF-8 and never runs past a stop
// string. Bytes that could still become part of a character or of a stop string are held back.
class TextStream {
 public:
  // `vocabulary` outlives the stream. `stop` strings are non-empty.
  // `strip_leading_space` drops one leading space of the whole output (sentencepiece models).
  TextStream(const Vocabulary* vocabulary, std::vector<std::string> stop, bool include_stop,
             bool strip_leading_space = false);

  // Text that became certain with this token; may be empty. After a stop string matched, empty.
  std::string Append(int32_t token_id);
  // Everything held back; incomplete characters become U+FFFD. Call once, at the end.
  std::string Flush();
  // Index of the stop string that matched, or -1.
  int32_t matched_stop() const { return matched_stop_; }

 private:
  const Vocabulary* vocabulary_;
  std::vector<std::string> stop_;
  bool include_stop_;
  bool strip_leading_space_;
  std::string pending_;  // bytes not yet emitted
  int32_t matched_stop_ = -1;
};

}  // namespace mlc_server
