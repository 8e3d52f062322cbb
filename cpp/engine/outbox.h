#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "engine/output.h"

namespace mlc_server {

// Carries output from the engine thread to one reader, which sleeps on an eventfd.
//
// Wake-ups: Publish() writes the eventfd only when the reader has drained everything since the last
// write ("armed"), so a reader that is busy costs no system call and a step costs at most one.
//
// Memory: an item that is still unread when its choice has more news is merged with it, so unread
// items number at most the open choices plus those that finished unread, and each is bounded by the
// context window. Growth by finished ones is stopped at the door: Engine::Submit() refuses new work
// while too many items lie unread. Dropping is never an option: each token is reported once.
class Outbox {
 public:
  // Throws std::system_error when the process is out of file descriptors.
  Outbox();
  ~Outbox();
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  // Hands over one step's items, leaving `items` empty. Engine thread.
  void Publish(std::vector<OutputItem>* items);
  // Everything since the last call, in order of first news; re-arms the wake-up. Reader.
  std::vector<OutputItem> Drain();
  // Readable when output waits and the reader had drained all before it. Owned by this object.
  int wake_fd() const { return wake_fd_; }
  size_t num_unread() const;
  // Wake-ups written so far; tests count system calls with it.
  int64_t num_wakeups() const;

 private:
  void MergeUnread(std::vector<OutputItem>* items);  // holds mutex_
  void Wake() const;

  struct Key {
    RequestId request_id;
    int32_t choice;
    bool operator==(const Key& other) const {
      return request_id == other.request_id && choice == other.choice;
    }
  };
  struct KeyHash {
    size_t operator()(const Key& key) const {
      return std::hash<RequestId>()(key.request_id * 1315423911u +
                                    static_cast<uint64_t>(key.choice));
    }
  };

  int wake_fd_ = -1;
  mutable std::mutex mutex_;
  std::vector<OutputItem> unread_;
  // Where the latest unread item of a choice is. Filled only when a publish finds unread items, so
  // a reader that keeps up costs no hashing.
  std::unordered_map<Key, size_t, KeyHash> index_;
  bool armed_ = true;
  int64_t num_wakeups_ = 0;
};

}  // namespace mlc_server
