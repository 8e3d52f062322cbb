#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "core/request.h"

namespace mlc_server {

// A message to the engine thread, in order of arrival.
struct Command {
  RequestId request_id = 0;
  std::shared_ptr<const Request> request;  // null: cancel
  int64_t arrival_ns = 0;                  // when the request came in
};

// Carries requests and cancellations from any thread to the engine thread. Bounded: at most
// `max_queue_size` requests wait here and in the engine's queue together, and a cancellation is
// kept at most once per open request.
class Inbox {
 public:
  explicit Inbox(int32_t max_queue_size);

  // From any thread. Refused: kQueueFull, kUnavailable once closed, kInvalidValue for an open id.
  Status Submit(std::shared_ptr<const Request> request, int64_t arrival_ns);
  // From any thread. Ids that are not open (unknown, finished) are ignored.
  void Cancel(RequestId request_id);

  // The rest is called from the engine thread.

  // All commands since the last call. Their requests count as queued until NoteStarted().
  std::vector<Command> Take();
  // `count` taken requests left the engine's queue: they run, or have ended without running.
  void NoteStarted(int32_t count);
  // The id may be used again.
  void NoteFinished(RequestId request_id);
  // Sleeps until a command waits, Wake() is called or `timeout` is over.
  void Wait(std::chrono::nanoseconds timeout);
  // Ends a Wait(). From any thread.
  void Wake();
  // Refuses all later requests with kUnavailable and `reason`; returns what was still waiting.
  std::vector<Command> Close(const std::string& reason);

  // Requests waiting here or in the engine's queue. From any thread.
  int32_t num_waiting() const;

 private:
  enum class OpenState { kOpen, kCancelRequested };

  const int32_t max_queue_size_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool awake_ = false;  // Wake() was called since the last Wait()
  bool closed_ = false;
  std::string close_reason_;
  std::vector<Command> commands_;
  int32_t num_submitted_ = 0;  // requests among commands_
  int32_t num_queued_ = 0;     // taken and not yet started
  std::unordered_map<RequestId, OpenState> open_;
};

}  // namespace mlc_server
