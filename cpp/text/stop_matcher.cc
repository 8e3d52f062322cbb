#include "text/stop_matcher.h"

#include <utility>

#include "base/check.h"

namespace mlc_server {

StopMatcher::StopMatcher(std::vector<std::string> patterns)
    : patterns_(std::move(patterns)), nodes_(1) {
  for (size_t i = 0; i < patterns_.size(); ++i) {
    MLC_CHECK(!patterns_[i].empty()) << "stop string " << i << " is empty";
    Insert(static_cast<int32_t>(i));
  }
  LinkFallbacks();
}

bool StopMatcher::Push(std::string_view bytes, std::string* released, bool may_match) {
  MLC_CHECK(matched_ == kNone) << "bytes after a stop string matched";
  if (patterns_.empty()) {
    released->append(bytes);
    return false;
  }
  for (const char c : bytes) {
    const int32_t next = Next(state_, static_cast<uint8_t>(c));
    // The held bytes and this one, less what is held from now on. The held bytes are the state's
    // own prefix, so they need no buffer.
    const int32_t match = may_match ? nodes_[next].match : kNone;
    const int32_t kept =
        match == kNone ? nodes_[next].depth : static_cast<int32_t>(patterns_[match].size());
    const std::string_view held = Held();
    const int32_t num_released = static_cast<int32_t>(held.size()) + 1 - kept;
    if (num_released > static_cast<int32_t>(held.size())) {
      released->append(held);
      released->push_back(c);
    } else {
      released->append(held.substr(0, num_released));
    }
    state_ = next;
    if (match != kNone) {
      matched_ = match;
      return true;
    }
  }
  return false;
}

std::string_view StopMatcher::Held() const {
  if (matched_ != kNone) {
    return patterns_[matched_];
  }
  const Node& node = nodes_[state_];
  return node.depth == 0 ? std::string_view()
                         : std::string_view(patterns_[node.pattern]).substr(0, node.depth);
}

void StopMatcher::Insert(int32_t pattern) {
  int32_t node = kRoot;
  for (const char c : patterns_[pattern]) {
    int32_t child = Child(node, static_cast<uint8_t>(c));
    if (child == kNone) {
      child = static_cast<int32_t>(nodes_.size());
      Node created;
      created.byte = static_cast<uint8_t>(c);
      created.depth = nodes_[node].depth + 1;
      created.pattern = pattern;
      created.next_sibling = nodes_[node].first_child;
      nodes_.push_back(created);
      nodes_[node].first_child = child;
    }
    node = child;
  }
  if (nodes_[node].match == kNone) {
    nodes_[node].match = pattern;
  }
}

// Breadth first, so that the shorter states a fallback refers to are complete.
void StopMatcher::LinkFallbacks() {
  std::vector<int32_t> queue = {kRoot};
  for (size_t head = 0; head < queue.size(); ++head) {
    const int32_t node = queue[head];
    for (int32_t child = nodes_[node].first_child; child != kNone;
         child = nodes_[child].next_sibling) {
      nodes_[child].fallback =
          node == kRoot ? kRoot : Next(nodes_[node].fallback, nodes_[child].byte);
      if (nodes_[child].match == kNone) {
        nodes_[child].match = nodes_[nodes_[child].fallback].match;
      }
      queue.push_back(child);
    }
  }
}

int32_t StopMatcher::Child(int32_t node, uint8_t byte) const {
  int32_t child = nodes_[node].first_child;
  while (child != kNone && nodes_[child].byte != byte) {
    child = nodes_[child].next_sibling;
  }
  return child;
}

// The state after `byte`: follows fallbacks until one can be extended by it.
int32_t StopMatcher::Next(int32_t node, uint8_t byte) const {
  for (;;) {
    const int32_t child = Child(node, byte);
    if (child != kNone) {
      return child;
    }
    if (node == kRoot) {
      return kRoot;
    }
    node = nodes_[node].fallback;
  }
}

}  // namespace mlc_server
