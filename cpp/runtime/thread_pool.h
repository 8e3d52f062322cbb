#pragma once

#include <cstdint>
#include <memory>

namespace mlc_server {

// Runs the parallel regions of generated kernels, in place of TVM's pool.
// Every thread has a share of a region's tasks and, when that is used up, takes of the others', so
// a slow or stolen core costs one task, not the step. Workers spin between BeginStep() and
// EndStep(); outside of a step they sleep once they have had nothing to do for about 50 us, so that
// steps in close succession cost no wake-up.
class ThreadPool {
 public:
  // `num_threads` >= 1 counts the calling thread. Threads start here and join in the destructor.
  // Throws std::system_error when the system refuses a thread.
  explicit ThreadPool(int32_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls task(task_id, num_tasks, data) for every task_id in [0, num_tasks), in any order, on
  // any thread; returns when all are done. One caller at a time. Returns 0, or the first non-zero
  // result of a task; the other tasks run all the same. A task must not throw: that terminates.
  // Outside of a step it wakes the workers first. From inside a task it runs everything inline.
  using TaskFn = int (*)(int32_t task_id, int32_t num_tasks, void* data);
  int Run(TaskFn task, void* data, int32_t num_tasks);

  // Workers stay awake between these two, which nest. To be called by the thread that calls Run().
  void BeginStep();
  void EndStep();

  int32_t num_threads() const;

  // Mean time of a region of `num_threads` empty tasks over `repeats` >= 1 regions in one step.
  double MeasureEmptyRegionNs(int32_t repeats);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Keeps a pool's workers awake while it lives.
class StepScope {
 public:
  explicit StepScope(ThreadPool* pool) : pool_(pool) { pool_->BeginStep(); }
  ~StepScope() { pool_->EndStep(); }
  StepScope(const StepScope&) = delete;
  StepScope& operator=(const StepScope&) = delete;

 private:
  ThreadPool* pool_;
};

}  // namespace mlc_server
