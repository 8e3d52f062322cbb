#include "engine/outbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace mlc_server {

Outbox::Outbox() : wake_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (wake_fd_ < 0) {
    throw std::system_error(errno, std::generic_category(), "eventfd");
  }
}

Outbox::~Outbox() { close(wake_fd_); }

void Outbox::Publish(std::vector<OutputItem>* items) {
  if (items->empty()) {
    return;
  }
  bool wake = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (unread_.empty()) {
      unread_.swap(*items);
    } else {
      MergeUnread(items);
    }
    wake = std::exchange(armed_, false);
    num_wakeups_ += wake ? 1 : 0;
  }
  items->clear();
  if (wake) {
    Wake();
  }
}

void Outbox::MergeUnread(std::vector<OutputItem>* items) {
  if (index_.empty()) {
    for (size_t position = 0; position < unread_.size(); ++position) {
      index_[{unread_[position].request_id, unread_[position].choice}] = position;
    }
  }
  auto next = items->begin();
  try {
    unread_.reserve(unread_.size() + items->size());
    for (; next != items->end(); ++next) {
      size_t& position =
          index_.try_emplace({next->request_id, next->choice}, unread_.size()).first->second;
      if (position < unread_.size() && unread_[position].finish_reason == FinishReason::kNone) {
        unread_[position].Merge(std::move(*next));
        continue;
      }
      // First news of this choice, or its id was taken again after it had finished.
      position = unread_.size();
      unread_.push_back(std::move(*next));
    }
  } catch (...) {
    // What was taken over must not be reported twice; what was not stays with the caller.
    items->erase(items->begin(), next);
    throw;
  }
}

std::vector<OutputItem> Outbox::Drain() {
  // Cleared before looking: a publish in between finds armed_ false and its items are taken below;
  // clearing afterwards could swallow the wake-up of items that came after the swap.
  uint64_t count = 0;
  const ssize_t got = read(wake_fd_, &count, sizeof(count));
  MLC_CHECK(got == sizeof(count) || errno == EAGAIN) << "eventfd read: errno " << errno;
  std::vector<OutputItem> items;
  std::lock_guard<std::mutex> lock(mutex_);
  items.swap(unread_);
  index_.clear();
  armed_ = true;
  return items;
}

size_t Outbox::num_unread() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return unread_.size();
}

int64_t Outbox::num_wakeups() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return num_wakeups_;
}

void Outbox::Wake() const {
  const uint64_t one = 1;
  const ssize_t put = write(wake_fd_, &one, sizeof(one));
  // EAGAIN: the counter is at its maximum, hence readable, which is all that a wake-up means.
  MLC_CHECK(put == sizeof(one) || errno == EAGAIN) << "eventfd write: errno " << errno;
}

}  // namespace mlc_server
