#include "runtime/thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "runtime/backoff.h"

namespace mlc_server {
namespace {

constexpr size_t kCacheLine = 64;

// Set while this thread runs a task: a region started by a task runs inline.
thread_local bool inside_task = false;

}  // namespace

// A region's tasks are cut into shares of consecutive tasks, one for each thread, so that what a
// task prefetches beyond its end is in the cache of the thread that needs it. A thread works off
// its own share, whose counter is then in its own cache, and takes what is left of the others'
// after it.
//
// A share is published by storing its number of tasks in `unclaimed` after its other fields.
// Claiming decrements it; a positive old value is the ownership of one task, and until that task is
// counted in `done` the region cannot end, so the fields hold still. A thread that is late,
// whatever it saw before, therefore either claims a task of the current region or none: there is no
// moment at which a stale counter can be combined with a new region's fields.
struct ThreadPool::Impl {
  // Written by the caller while no task is claimed or claimable. A worker learns all of a region
  // from its one cache line.
  struct alignas(kCacheLine) Share {
    std::atomic<int32_t> unclaimed{0};  // goes below 0, by one per thread that comes too late
    int32_t end = 0;                    // behind the share's last task
    int32_t num_tasks = 0;              // of the region
    TaskFn task = nullptr;
    void* data = nullptr;
  };
  std::vector<Share> shares;  // of the caller, then of each worker
  alignas(kCacheLine) std::atomic<int32_t> done{0};
  std::atomic<int32_t> first_error{0};

  // `awake` and `stopping` change under `mutex`, so that a worker that is about to sleep on
  // `wake_up` cannot miss the change.
  alignas(kCacheLine) std::atomic<bool> awake{false};
  bool stopping = false;
  std::mutex mutex;
  std::condition_variable wake_up;

  // Touched by the caller only.
  int32_t step_depth = 0;
  int64_t turn = 0;  // by how many shares the parts of a region are passed on
  std::vector<std::thread> workers;

  explicit Impl(int32_t num_threads) : shares(num_threads) {}

  void StartWorkers() {
    const size_t count = shares.size() - 1;
    workers.reserve(count);
    try {
      for (size_t i = 0; i < count; ++i) {
        workers.emplace_back([this, i] { Work(i + 1); });
      }
    } catch (...) {
      Stop();
      throw;
    }
  }

  void Stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
      awake.store(false, std::memory_order_release);
    }
    wake_up.notify_all();
    for (std::thread& worker : workers) {
      worker.join();
    }
    workers.clear();
  }

  void Wake() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      awake.store(true, std::memory_order_release);
    }
    wake_up.notify_all();
  }

  void LetSleep() {
    const std::lock_guard<std::mutex> lock(mutex);
    awake.store(false, std::memory_order_release);
  }

  void Work(size_t own) {
    Backoff backoff;
    for (;;) {
      if (shares[own].unclaimed.load(std::memory_order_relaxed) > 0) {
        RunTasks(own);
        backoff.Reset();
      } else if (awake.load(std::memory_order_acquire) || backoff.spinning()) {
        backoff.Pause();
      } else {
        std::unique_lock<std::mutex> lock(mutex);
        wake_up.wait(lock, [this] { return stopping || awake.load(std::memory_order_relaxed); });
        if (stopping) {
          return;
        }
        backoff.Reset();
      }
    }
  }

  // Works off one's own share, then the others'.
  void RunTasks(size_t own) noexcept {
    int32_t finished = 0;
    inside_task = true;
    for (size_t i = own; i < shares.size(); ++i) {
      finished += RunClaimedTasks(&shares[i]);
    }
    for (size_t i = 0; i < own; ++i) {
      finished += RunClaimedTasks(&shares[i]);
    }
    inside_task = false;
    if (finished > 0) {
      done.fetch_add(finished, std::memory_order_release);
    }
  }

  // Returns how many tasks of the share this thread ran.
  // noexcept: an exception has nowhere to go on a worker, and must not leave a region half done.
  int32_t RunClaimedTasks(Share* share) noexcept {
    int32_t finished = 0;
    while (share->unclaimed.load(std::memory_order_relaxed) > 0) {
      const int32_t unclaimed = share->unclaimed.fetch_sub(1, std::memory_order_acq_rel);
      if (unclaimed <= 0) {
        break;
      }
      const int error = share->task(share->end - unclaimed, share->num_tasks, share->data);
      if (error != 0) {
        int32_t none = 0;
        first_error.compare_exchange_strong(none, error, std::memory_order_relaxed);
      }
      ++finished;
    }
    return finished;
  }

  int RunParallel(TaskFn task, void* data, int32_t num_tasks) {
    done.store(0, std::memory_order_relaxed);
    first_error.store(0, std::memory_order_relaxed);
    const auto num_shares = static_cast<int64_t>(shares.size());
    turn = turn + 1 < num_shares ? turn + 1 : 0;
    // The caller's own share is the last: others are to begin meanwhile. A worker that has come to
    // its end by then does not return for it, which takes tasks of less than a microsecond.
    for (int64_t i = num_shares - 1; i >= 0; --i) {
      Share& share = shares[i];
      const int64_t part = (i + turn) % num_shares;
      const auto begin = static_cast<int32_t>(num_tasks * part / num_shares);
      share.end = static_cast<int32_t>(num_tasks * (part + 1) / num_shares);
      share.num_tasks = num_tasks;
      share.task = task;
      share.data = data;
      share.unclaimed.store(share.end - begin, std::memory_order_release);
    }
    RunTasks(0);
    Backoff backoff;
    while (done.load(std::memory_order_acquire) != num_tasks) {
      backoff.Pause();
    }
    return first_error.load(std::memory_order_relaxed);
  }
};

namespace {

int RunInline(ThreadPool::TaskFn task, void* data, int32_t num_tasks) noexcept {
  const bool was_inside = inside_task;
  inside_task = true;
  int first_error = 0;
  for (int32_t task_id = 0; task_id < num_tasks; ++task_id) {
    const int error = task(task_id, num_tasks, data);
    first_error = first_error != 0 ? first_error : error;
  }
  inside_task = was_inside;
  return first_error;
}

}  // namespace

ThreadPool::ThreadPool(int32_t num_threads) {
  MLC_CHECK(num_threads >= 1) << "num_threads is " << num_threads;
  impl_ = std::make_unique<Impl>(num_threads);
  impl_->StartWorkers();
}

ThreadPool::~ThreadPool() { impl_->Stop(); }

int ThreadPool::Run(TaskFn task, void* data, int32_t num_tasks) {
  if (inside_task || num_tasks <= 1 || impl_->workers.empty()) {
    return RunInline(task, data, num_tasks);
  }
  if (impl_->step_depth > 0) {
    return impl_->RunParallel(task, data, num_tasks);
  }
  const StepScope step(this);
  return impl_->RunParallel(task, data, num_tasks);
}

void ThreadPool::BeginStep() {
  if (impl_->step_depth++ == 0 && !impl_->workers.empty()) {
    impl_->Wake();
  }
}

void ThreadPool::EndStep() {
  MLC_CHECK(impl_->step_depth > 0) << "EndStep without BeginStep";
  if (--impl_->step_depth == 0 && !impl_->workers.empty()) {
    impl_->LetSleep();
  }
}

int32_t ThreadPool::num_threads() const { return static_cast<int32_t>(impl_->workers.size()) + 1; }

double ThreadPool::MeasureEmptyRegionNs(int32_t repeats) {
  MLC_CHECK(repeats >= 1) << "repeats is " << repeats;
  const StepScope step(this);
  const auto start = std::chrono::steady_clock::now();
  for (int32_t i = 0; i < repeats; ++i) {
    Run([](int32_t, int32_t, void*) { return 0; }, nullptr, num_threads());
  }
  const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count() / repeats;
}

}  // namespace mlc_server
