#pragma once

#include <cstdint>
#include <memory>

namespace mlc_server {

// Runs the parallel regions of generated kernels, in place of TVM's pool.
// Tasks are handed out by an atomic counter, so a slow or stolen core costs one task, not the step.
// Workers spin between BeginStep() and EndStep() and sleep otherwise.
class ThreadPool {
 public:
  // `num_threads` >= 1 counts the calling thread. Threads start here and join in the destructor.
  explicit ThreadPool(int32_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls task(task_id, num_tasks, data) for every task_id in [0, num_tasks), in any order, on
  // any thread; returns when all are done. One caller at a time. Returns 0, or the first non-zero
  // result of a task.
  using TaskFn = int (*)(int32_t task_id, int32_t num_tasks, void* data);
  int Run(TaskFn task, void* data, int32_t num_tasks);

  // Workers stay awake between these two.
  void BeginStep();
  void EndStep();

  int32_t num_threads() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mlc_server
