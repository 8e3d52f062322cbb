#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/stop_matcher.h"
#include "text/utf8_decoder.h"
#include "text/vocabulary.h"

namespace mlc_server {

// Turns one sequence's tokens into text that is always valid UTF-8 and never runs past a stop
// string. Bytes that could still become part of a character or of a stop string are held back,
// and no others: everything returned so far is what decoding all bytes at once, cut at the first
// stop string, begins with. Time is proportional to the bytes.
//
// Stop strings are matched in the bytes, before decoding. The match that completes first ends the
// text (among those that complete at the same byte, the longest), and the text is cut at its start.
class TextStream {
 public:
  // `vocabulary` outlives the stream. `stop` strings are non-empty. With `include_stop` the text
  // ends with the matched stop string instead of before it.
  // `strip_leading_space` drops one leading space of the whole output (sentencepiece models).
  TextStream(const Vocabulary* vocabulary, std::vector<std::string> stop, bool include_stop,
             bool strip_leading_space = false);

  // Text that became certain with this token; may be empty. After a stop string matched, empty.
  // Without `may_stop`, a stop string that this token completes does not match.
  std::string Append(int32_t token_id, bool may_stop = true);
  // Everything held back; incomplete characters become U+FFFD. Ends the stream.
  std::string Flush();
  // Index of the stop string that matched, or -1.
  int32_t matched_stop() const { return matcher_.matched(); }

 private:
  const Vocabulary* vocabulary_;
  bool include_stop_;
  bool strip_leading_space_;  // until the first byte has been seen
  bool ended_ = false;
  StopMatcher matcher_;
  Utf8Decoder decoder_;
};

}  // namespace mlc_server
