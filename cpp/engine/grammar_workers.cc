#include "engine/grammar_workers.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "base/check.h"

namespace mlc_server {
namespace {

// The kernel then gives the thread about a tenth of what one of normal priority gets.
constexpr int kLowPriority = 10;

int64_t ReadNs(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

GrammarWorkers::~GrammarWorkers() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    for (Worker& worker : workers_) {
      if (worker.working_on != nullptr && worker.working_on->matcher_ != nullptr) {
        worker.working_on->matcher_->Cancel();
      }
    }
  }
  for (Lane& lane : lanes_) {
    lane.has_work.notify_all();
  }
  for (Worker& worker : workers_) {
    if (worker.thread.joinable()) {
      worker.thread.join();
    }
  }
}

void GrammarWorkers::StartThreads() {
  for (size_t idx = 0; idx < workers_.size(); ++idx) {
    if (!workers_[idx].thread.joinable()) {
      workers_[idx].thread = std::thread([this, idx] { Run(idx); });
    }
  }
  started_ = true;
}

std::shared_ptr<GrammarFollower> GrammarWorkers::Begin(std::shared_ptr<const Grammar> grammar) {
  if (!started_) {
    StartThreads();
  }
  auto follower = std::make_shared<GrammarFollower>(std::move(grammar));
  Queue(follower);
  return follower;
}

void GrammarWorkers::Advance(const std::shared_ptr<GrammarFollower>& follower, int32_t token_id,
                             bool is_last) {
  MLC_CHECK(Progress(*follower) == GrammarProgress::kKnown && !follower->failure_ &&
            !follower->is_complete_)
      << "a grammar is given token " << token_id << " before it is ready";
  follower->token_ = token_id;
  follower->is_last_ = is_last;
  follower->allowed_ = nullptr;
  Queue(follower);
}

void GrammarWorkers::Queue(std::shared_ptr<GrammarFollower> follower) {
  Lane& lane = lanes_[follower->is_slow() ? kSlow : kOrdinary];
  {
    std::lock_guard<std::mutex> lock(mutex_);
    follower->progress_ = GrammarProgress::kPending;
    lane.queue.push_back(std::move(follower));
  }
  lane.has_work.notify_one();
}

GrammarProgress GrammarWorkers::Progress(const GrammarFollower& follower, GrammarProgress least,
                                         Clock::time_point deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto is_there = [&] { return follower.progress_ >= least; };
  if (!is_there() && !follower.is_slow() && Clock::now() < deadline) {
    is_waited_for_ = true;
    has_progress_.wait_until(lock, deadline, is_there);
    is_waited_for_ = false;
  }
  return follower.progress_;
}

void GrammarWorkers::WakeWhenKnown(GrammarFollower* follower) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (follower->progress_ != GrammarProgress::kKnown) {
      follower->wakes_engine_ = true;
      return;
    }
  }
  wake_();
}

void GrammarWorkers::CancelOverdue() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Worker& worker : workers_) {
    GrammarFollower* follower = worker.working_on;
    if (follower == nullptr || follower->matcher_ == nullptr || follower->overdue_) {
      continue;
    }
    const int64_t worked_ns = ReadNs(worker.cpu_clock) - worker.began_ns;
    if (worked_ns > kGrammarAllowanceNs) {
      follower->grammar_->NoteSlow();
    }
    if (worked_ns > kMaxGrammarStepNs) {
      follower->overdue_ = true;
      follower->matcher_->Cancel();
    }
  }
}

void GrammarWorkers::Drop(std::shared_ptr<GrammarFollower> follower) {
  Lane& lane = lanes_[kSlow];
  {
    std::lock_guard<std::mutex> lock(mutex_);
    follower->dropped_ = true;
    for (Worker& worker : workers_) {
      if (worker.working_on == follower.get() && follower->matcher_ != nullptr) {
        follower->matcher_->Cancel();
      }
    }
    lane.queue.push_back(std::move(follower));
  }
  lane.has_work.notify_one();
}

void GrammarWorkers::Run(size_t worker_idx) {
  const LaneIndex lane_idx = kLaneOfWorker[worker_idx];
  pthread_setname_np(pthread_self(), "mlc-grammar");
  if (lane_idx == kSlow) {
    // On Linux this is the thread's own. Refused, it is merely not as low as it might be.
    setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kLowPriority);
  }
  Worker& worker = workers_[worker_idx];
  Lane& lane = lanes_[lane_idx];
  std::unique_lock<std::mutex> lock(mutex_);
  MLC_CHECK(pthread_getcpuclockid(pthread_self(), &worker.cpu_clock) == 0);
  while (true) {
    std::shared_ptr<GrammarFollower> follower;
    lane.has_work.wait(lock, [&] {
      follower = stopping_ ? nullptr : Take(lane_idx);
      return stopping_ || follower != nullptr;
    });
    if (stopping_) {
      return;
    }
    const bool works = !follower->dropped_;
    if (works) {
      worker.working_on = follower.get();
      worker.began_ns = ReadNs(worker.cpu_clock);
    }
    lock.unlock();
    if (works) {
      Work(&worker, follower.get());
    }
    follower.reset();
    lock.lock();
    if (works) {
      WakeThoseWaiting();
    }
  }
}

void GrammarWorkers::WakeThoseWaiting() {
  for (Lane& lane : lanes_) {
    if (!lane.queue.empty()) {
      lane.has_work.notify_one();
    }
  }
}

std::shared_ptr<GrammarFollower> GrammarWorkers::Take(LaneIndex lane_idx) {
  auto& queue = lanes_[lane_idx].queue;
  for (auto next = queue.begin(); next != queue.end();) {
    const Grammar* grammar = (*next)->grammar_.get();
    if (lane_idx == kOrdinary && grammar->is_slow()) {  // since it was queued
      lanes_[kSlow].queue.push_back(std::move(*next));
      next = queue.erase(next);
      lanes_[kSlow].has_work.notify_one();
      continue;
    }
    const bool is_free = std::none_of(workers_.begin(), workers_.end(), [&](const Worker& worker) {
      return worker.working_on != nullptr && worker.working_on->grammar_.get() == grammar;
    });
    if (is_free || (*next)->dropped_) {
      std::shared_ptr<GrammarFollower> taken = std::move(*next);
      queue.erase(next);
      return taken;
    }
    ++next;
  }
  return nullptr;
}

void GrammarWorkers::Work(Worker* worker, GrammarFollower* follower) {
  Status failure;
  bool is_complete = false;
  const uint32_t* allowed = nullptr;
  try {
    if (follower->matcher_ == nullptr) {
      std::unique_ptr<GrammarMatcher> matcher = follower->grammar_->NewMatcher();
      std::lock_guard<std::mutex> lock(mutex_);
      follower->matcher_ = std::move(matcher);
      if (follower->dropped_ || stopping_) {
        follower->matcher_->Cancel();
      }
    }
    GrammarMatcher* matcher = follower->matcher_.get();
    if (follower->token_ >= 0) {
      failure = matcher->Consume(follower->token_);
      is_complete = !failure && matcher->IsComplete();
    }
    if (!failure && !is_complete && !follower->is_last_) {
      NoteConsumed(follower);
      const Result<const uint32_t*> known = matcher->AllowedTokens();
      if (known.ok()) {
        allowed = known.value();
      } else {
        failure = known.error();
      }
    }
  } catch (const std::exception& error) {
    failure = Error{ErrorCode::kInvalidValue, "", error.what()};
  }
  follower->spent_ns_ += ReadNs(worker->cpu_clock) - worker->began_ns;
  if (follower->spent_ns_ > kGrammarAllowanceNs) {
    follower->grammar_->NoteSlow();
  }
  follower->spent_ns_ = std::max<int64_t>(0, follower->spent_ns_ - kGrammarAllowancePerTokenNs);
  Finish(worker, follower, std::move(failure), is_complete, allowed);
}

void GrammarWorkers::NoteConsumed(GrammarFollower* follower) {
  bool notifies = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    follower->progress_ = GrammarProgress::kConsumed;
    notifies = is_waited_for_;
  }
  if (notifies) {
    has_progress_.notify_one();
  }
}

void GrammarWorkers::Finish(Worker* worker, GrammarFollower* follower, Status failure,
                            bool is_complete, const uint32_t* allowed) {
  bool notifies = false;
  bool wakes = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    worker->working_on = nullptr;
    if (failure && follower->overdue_) {
      failure->message = "what may follow takes longer than " +
                         std::to_string(kMaxGrammarStepNs / 1'000'000) + " ms to work out";
    }
    follower->failure_ = std::move(failure);
    follower->is_complete_ = is_complete;
    follower->allowed_ = allowed;
    follower->progress_ = GrammarProgress::kKnown;
    notifies = is_waited_for_;
    wakes = std::exchange(follower->wakes_engine_, false);
  }
  if (notifies) {
    has_progress_.notify_one();
  }
  if (wakes) {
    wake_();
  }
}

}  // namespace mlc_server
