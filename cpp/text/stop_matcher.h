#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mlc_server {

// Finds the first of several stop strings in a stream of bytes (Aho and Corasick, "Efficient string
// matching", CACM 1975), holding back exactly the longest suffix that could still become one.
//
// The match that completes first counts; among those that complete at the same byte, the longest,
// and among equal strings the first given.
class StopMatcher {
 public:
  // `patterns` are non-empty.
  explicit StopMatcher(std::vector<std::string> patterns);

  // Appends to `released` the bytes that cannot be part of a match, and stops at the end of the
  // first match: what follows it in `bytes` is dropped. True when a match completed.
  // Without `may_match`, what completes in `bytes` is no match; one that has begun there still can
  // be. Time is proportional to the bytes, amortised. Not to be called after a match.
  bool Push(std::string_view bytes, std::string* released, bool may_match = true);

  // What is held back: a proper prefix of a pattern, or after a match the whole pattern.
  std::string_view Held() const;
  // Index of the pattern that matched, or -1.
  int32_t matched() const { return matched_; }

 private:
  // A state is a prefix of some pattern. Children are a linked list: a node rarely has two, and
  // never more than there are patterns.
  struct Node {
    uint8_t byte = 0;  // the last of the prefix
    int32_t depth = 0;
    int32_t pattern = 0;  // one that starts with this prefix
    int32_t first_child = kNone;
    int32_t next_sibling = kNone;
    int32_t fallback = 0;   // the longest proper suffix that is a state
    int32_t match = kNone;  // the longest pattern that is a suffix
  };
  static constexpr int32_t kNone = -1;
  static constexpr int32_t kRoot = 0;

  void Insert(int32_t pattern);
  void LinkFallbacks();
  int32_t Child(int32_t node, uint8_t byte) const;
  int32_t Next(int32_t node, uint8_t byte) const;

  std::vector<std::string> patterns_;
  std::vector<Node> nodes_;
  int32_t state_ = kRoot;
  int32_t matched_ = kNone;
};

}  // namespace mlc_server
