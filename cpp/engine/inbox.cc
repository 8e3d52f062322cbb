#include "engine/inbox.h"

#include <utility>

#include "base/check.h"

namespace mlc_server {

Inbox::Inbox(int32_t max_queue_size) : max_queue_size_(max_queue_size) {}

Status Inbox::Submit(std::shared_ptr<const Request> request, int64_t arrival_ns) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) {
      return Error{ErrorCode::kUnavailable, "", close_reason_};
    }
    if (num_submitted_ + num_queued_ >= max_queue_size_) {
      return Error{
          ErrorCode::kQueueFull, "",
          "the queue is full: " + std::to_string(max_queue_size_) + " requests are waiting"};
    }
    const RequestId id = request->id;
    if (!open_.emplace(id, OpenState::kOpen).second) {
      return Error{ErrorCode::kInvalidValue, "request_id",
                   "request " + std::to_string(id) + " is still open"};
    }
    commands_.push_back({id, std::move(request), arrival_ns});
    ++num_submitted_;
  }
  wake_.notify_one();
  return std::nullopt;
}

void Inbox::Cancel(RequestId request_id) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = open_.find(request_id);
    if (found == open_.end() || found->second == OpenState::kCancelRequested) {
      return;
    }
    found->second = OpenState::kCancelRequested;
    commands_.push_back({request_id, nullptr, 0});
  }
  wake_.notify_one();
}

std::vector<Command> Inbox::Take() {
  std::vector<Command> commands;
  std::lock_guard<std::mutex> lock(mutex_);
  commands.swap(commands_);
  num_queued_ += std::exchange(num_submitted_, 0);
  return commands;
}

void Inbox::NoteStarted(int32_t count) {
  std::lock_guard<std::mutex> lock(mutex_);
  num_queued_ -= count;
  MLC_CHECK(num_queued_ >= 0) << count << " started, more than were queued";
}

void Inbox::NoteFinished(RequestId request_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const size_t erased = open_.erase(request_id);
  MLC_CHECK(erased == 1) << "request " << request_id << " was not open";
}

void Inbox::Wait(std::chrono::nanoseconds timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait_for(lock, timeout, [this] { return awake_ || !commands_.empty(); });
  awake_ = false;
}

void Inbox::Wake() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    awake_ = true;
  }
  wake_.notify_one();
}

std::vector<Command> Inbox::Close(const std::string& reason) {
  std::vector<Command> commands;
  std::lock_guard<std::mutex> lock(mutex_);
  if (!closed_) {
    closed_ = true;
    close_reason_ = reason;
  }
  commands.swap(commands_);
  num_submitted_ = 0;
  num_queued_ = 0;
  open_.clear();
  return commands;
}

int32_t Inbox::num_waiting() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return num_submitted_ + num_queued_;
}

}  // namespace mlc_server
