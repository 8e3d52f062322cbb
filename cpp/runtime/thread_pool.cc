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

// A region is published by storing its number of tasks in `unclaimed` after its fields. Claiming
// decrements it; a positive old value is the ownership of one task, and until that task is counted
// in `done` the region cannot end, so the fields hold still. A worker that is late, whatever it
// saw before, therefore either claims a task of the current region or none: there is no moment at
// which a stale counter can be combined with a new region's fields.
//
// Which task that is, the owner then picks: the next of its own share of consecutive tasks, so that
// what a task prefetches beyond its end is in the cache of the thread that needs it; when its share
// is used up, the next of another thread's. As many picks as tasks are ever made, so one is found.
struct ThreadPool::Impl {
  // Written by the caller while no task is claimed or claimable.
  struct alignas(kCacheLine) Region {
    std::atomic<int64_t> unclaimed{0};  // goes below 0, by one per worker that finds nothing
    TaskFn task = nullptr;
    void* data = nullptr;
    int32_t num_tasks = 0;
  } region;
  alignas(kCacheLine) std::atomic<int32_t> done{0};
  std::atomic<int32_t> first_error{0};

  // Tasks next .. end - 1 of a share are not picked yet; `next` may run past `end`.
  struct alignas(kCacheLine) Share {
    std::atomic<int32_t> next{0};
    int32_t end = 0;
  };
  std::vector<Share> shares;  // of the caller, then of each worker

  // `awake` and `stopping` change under `mutex`, so that a worker that is about to sleep on
  // `wake_up` cannot miss the change.
  alignas(kCacheLine) std::atomic<bool> awake{false};
  bool stopping = false;
  std::mutex mutex;
  std::condition_variable wake_up;

  int32_t step_depth = 0;  // touched by the caller only
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

  void Work(size_t own_share) {
    Backoff backoff;
    for (;;) {
      if (region.unclaimed.load(std::memory_order_relaxed) > 0) {
        RunClaimedTasks(own_share);
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

  // noexcept: an exception has nowhere to go on a worker, and must not leave a region half done.
  void RunClaimedTasks(size_t own_share) noexcept {
    int32_t finished = 0;
    inside_task = true;
    for (;;) {
      const int64_t unclaimed = region.unclaimed.fetch_sub(1, std::memory_order_acq_rel);
      if (unclaimed <= 0) {
        break;
      }
      const int error = region.task(PickTask(own_share), region.num_tasks, region.data);
      if (error != 0) {
        int32_t none = 0;
        first_error.compare_exchange_strong(none, error, std::memory_order_relaxed);
      }
      ++finished;
    }
    inside_task = false;
    if (finished > 0) {
      done.fetch_add(finished, std::memory_order_release);
    }
  }

  // To be called once for every task claimed.
  int32_t PickTask(size_t own_share) noexcept {
    for (size_t i = own_share;; i = i + 1 < shares.size() ? i + 1 : 0) {
      Share& share = shares[i];
      if (share.next.load(std::memory_order_relaxed) < share.end) {
        const int32_t task = share.next.fetch_add(1, std::memory_order_relaxed);
        if (task < share.end) {
          return task;
        }
      }
    }
  }

  int RunParallel(TaskFn task, void* data, int32_t num_tasks) {
    region.task = task;
    region.data = data;
    region.num_tasks = num_tasks;
    const auto num_shares = static_cast<int64_t>(shares.size());
    for (int64_t i = 0; i < num_shares; ++i) {
      shares[i].next.store(static_cast<int32_t>(num_tasks * i / num_shares),
                           std::memory_order_relaxed);
      shares[i].end = static_cast<int32_t>(num_tasks * (i + 1) / num_shares);
    }
    done.store(0, std::memory_order_relaxed);
    first_error.store(0, std::memory_order_relaxed);
    region.unclaimed.store(num_tasks, std::memory_order_release);
    RunClaimedTasks(0);
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
