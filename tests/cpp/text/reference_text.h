#pragma once

// Plain, slow definitions of what the text layer computes incrementally.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mlc_server::testing {

// The code point that `bytes` encode in full, or -1 when they are not one well-formed character.
inline int32_t CodePoint(std::string_view bytes) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const auto tail_is_valid = [&] {
    for (size_t i = 1; i < bytes.size(); ++i) {
      if (at(i) >> 6 != 2) {
        return false;
      }
    }
    return true;
  };
  constexpr int32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  constexpr int32_t kLeadBits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  constexpr int32_t kLeadTags[] = {0, 0x00, 0xC0, 0xE0, 0xF0};
  const size_t size = bytes.size();
  if (size < 1 || size > 4 || (at(0) & ~kLeadBits[size]) != kLeadTags[size] || !tail_is_valid()) {
    return -1;
  }
  int32_t code_point = at(0) & kLeadBits[size];
  for (size_t i = 1; i < size; ++i) {
    code_point = code_point << 6 | (at(i) & 0x3F);
  }
  const bool surrogate = code_point >= 0xD800 && code_point <= 0xDFFF;
  return code_point < kSmallest[size] || code_point > 0x10FFFF || surrogate ? -1 : code_point;
}

// Whether some well-formed character starts with `bytes` and is longer. Ranges of well-formed bytes
// start or end at the ones tried.
inline bool IsIncompleteCharacter(const std::string& bytes) {
  if (bytes.empty() || bytes.size() > 3) {
    return false;
  }
  for (const char byte : {'\x80', '\x8F', '\x90', '\x9F', '\xA0', '\xBF'}) {
    const std::string longer = bytes + byte;
    if (CodePoint(longer) >= 0 || IsIncompleteCharacter(longer)) {
      return true;
    }
  }
  return false;
}

// Decodes all of `bytes`, each maximal subpart of an ill-formed sequence giving one U+FFFD. With
// `hold_incomplete`, a last character that could still be completed is left out.
inline std::string Decode(const std::string& bytes, bool hold_incomplete = false) {
  std::string text;
  size_t i = 0;
  while (i < bytes.size()) {
    size_t size = 1;
    while (size <= 4 && CodePoint(std::string_view(bytes).substr(i, size)) < 0) {
      ++size;
    }
    if (size <= 4 && i + size <= bytes.size()) {
      text += bytes.substr(i, size);
      i += size;
      continue;
    }
    size = 1;
    while (i + size < bytes.size() && IsIncompleteCharacter(bytes.substr(i, size + 1))) {
      ++size;
    }
    if (hold_incomplete && i + size == bytes.size() && IsIncompleteCharacter(bytes.substr(i))) {
      return text;
    }
    text += "\xEF\xBF\xBD";
    i += size;
  }
  return text;
}

struct StopMatch {
  int32_t index = -1;
  size_t begin = 0;
  size_t end = 0;
};

inline bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

// The match that completes first, the longest of those that complete together.
inline StopMatch FindStop(const std::string& bytes, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= bytes.size(); ++end) {
    StopMatch best;
    for (size_t i = 0; i < stops.size(); ++i) {
      const bool longer = best.index < 0 || stops[i].size() > stops[best.index].size();
      if (longer && EndsWith(std::string_view(bytes).substr(0, end), stops[i])) {
        best = {static_cast<int32_t>(i), end - stops[i].size(), end};
      }
    }
    if (best.index >= 0) {
      return best;
    }
  }
  return {};
}

// Size of the longest suffix of `bytes` that a stop string begins with and goes beyond.
inline size_t HeldSize(const std::string& bytes, const std::vector<std::string>& stops) {
  size_t held = 0;
  for (const std::string& stop : stops) {
    for (size_t size = held + 1; size < stop.size() && size <= bytes.size(); ++size) {
      if (EndsWith(bytes, std::string_view(stop).substr(0, size))) {
        held = size;
      }
    }
  }
  return held;
}

}  // namespace mlc_server::testing
