#include "runtime/thread_pool.h"

#include <atomic>
#include <chrono>
#include <ctime>
#include <functional>
#include <thread>
#include <vector>

#include "base/check.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kStressScale = 5;
#else
constexpr int kStressScale = 1;
#endif

using Task = std::function<int(int32_t task_id, int32_t num_tasks)>;

int RunTask(ThreadPool* pool, int32_t num_tasks, Task task) {
  return pool->Run([](int32_t task_id, int32_t total,
                      void* data) { return (*static_cast<Task*>(data))(task_id, total); },
                   &task, num_tasks);
}

// Waits for a condition another thread brings about; false when it does not come true.
bool Await(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::yield();
  }
  return true;
}

// A region that two threads must run at the same time: each task waits for the other.
bool TwoThreadsMeet(ThreadPool* pool) {
  std::atomic<int> arrived{0};
  return RunTask(pool, 2, [&](int32_t, int32_t) {
           ++arrived;
           return Await([&] { return arrived == 2; }) ? 0 : 1;
         }) == 0;
}

TEST(EveryTaskRunsExactlyOnce) {
  for (int32_t num_threads : {1, 2, 3, 5}) {
    ThreadPool pool(num_threads);
    EXPECT_EQ(pool.num_threads(), num_threads);
    for (int32_t num_tasks : {0, 1, 2, 7, 64, 1000}) {
      std::vector<int> runs(num_tasks, 0);
      const int error = RunTask(&pool, num_tasks, [&](int32_t task_id, int32_t total) {
        ++runs[task_id];
        return total == num_tasks ? 0 : 1;
      });
      EXPECT_EQ(error, 0);
      EXPECT_EQ(runs, std::vector<int>(num_tasks, 1));
    }
  }
}

TEST(NonZeroResultIsReturnedAndTheOtherTasksStillRun) {
  for (int32_t num_threads : {1, 2}) {
    ThreadPool pool(num_threads);
    std::atomic<int> runs{0};
    const auto fail_at = [&](int32_t failing) {
      return RunTask(&pool, 10, [&, failing](int32_t task_id, int32_t) {
        ++runs;
        return task_id == failing ? -7 : 0;
      });
    };
    EXPECT_EQ(fail_at(4), -7);
    EXPECT_EQ(fail_at(9), -7);
    EXPECT_EQ(fail_at(10), 0);
    EXPECT_EQ(runs.load(), 30);
  }
}

// One task waits for all others, so static halves would never end.
TEST(SlowTaskDoesNotHoldUpOthers) {
  ThreadPool pool(2);
  constexpr int32_t kTasks = 32;
  for (int32_t slow : {0, 1, 15, 31}) {
    std::atomic<int> others{0};
    const int error = RunTask(&pool, kTasks, [&, slow](int32_t task_id, int32_t) {
      if (task_id == slow) {
        return Await([&] { return others == kTasks - 1; }) ? 0 : 1;
      }
      ++others;
      return 0;
    });
    EXPECT_EQ(error, 0);
  }
}

TEST(RegionInsideATaskRunsInlineOnTheSameThread) {
  ThreadPool pool(3);
  std::atomic<int> inner_runs{0};
  const int error = RunTask(&pool, 8, [&](int32_t, int32_t) {
    const auto outer_thread = std::this_thread::get_id();
    return RunTask(&pool, 5, [&, outer_thread](int32_t task_id, int32_t) {
      ++inner_runs;
      return std::this_thread::get_id() == outer_thread ? 0 : task_id + 1;
    });
  });
  EXPECT_EQ(error, 0);
  EXPECT_EQ(inner_runs.load(), 40);
}

TEST(SleepingWorkersTakePartInsideAndOutsideOfAStep) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 3));
    EXPECT_TRUE(TwoThreadsMeet(&pool));
    const StepScope step(&pool);
    EXPECT_TRUE(TwoThreadsMeet(&pool));
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 4));
    EXPECT_TRUE(TwoThreadsMeet(&pool));
  }
}

// Steps end and begin at every moment of a worker's way to sleep; a lost wake-up would leave the
// caller's task waiting for a second thread.
TEST(NoWakeUpIsLost) {
  ThreadPool pool(2);
  for (int round = 0; round < 2000 / kStressScale; ++round) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(round % 120);
    while (std::chrono::steady_clock::now() < until) {
    }
    EXPECT_TRUE(TwoThreadsMeet(&pool));
  }
}

// Every region has its own function and sizes, and writes plain memory that the next one reads: a
// worker that mixes two regions writes a wrong value or trips ThreadSanitizer.
TEST(ManyTinyRegionsStayApart) {
  constexpr int32_t kSlots = 16;
  struct State {
    int64_t region;
    int64_t slots[kSlots];
  };
  ThreadPool pool(3);
  State state = {};
  const ThreadPool::TaskFn add_region = [](int32_t task_id, int32_t num_tasks, void* data) {
    State* shared = static_cast<State*>(data);
    shared->slots[task_id] += shared->region;
    return num_tasks == 4 + shared->region % 13 ? 0 : 1;
  };
  const ThreadPool::TaskFn subtract_region = [](int32_t task_id, int32_t num_tasks, void* data) {
    State* shared = static_cast<State*>(data);
    shared->slots[task_id] -= shared->region;
    return num_tasks == 4 + shared->region % 13 ? 0 : 2;
  };
  const StepScope step(&pool);
  const int64_t num_regions = 100000 / kStressScale;
  for (int64_t i = 0; i < num_regions; ++i) {
    state.region = i;
    EXPECT_EQ(pool.Run(add_region, &state, static_cast<int32_t>(4 + i % 13)), 0);
    EXPECT_EQ(pool.Run(subtract_region, &state, static_cast<int32_t>(4 + i % 13)), 0);
    for (const int64_t slot : state.slots) {
      EXPECT_EQ(slot, 0);
    }
  }
}

// Both tasks of a region wait for each other, so that each thread runs the one of its share.
TEST(WhoEndsARegionBeginsTheNext) {
  ThreadPool pool(2);
  std::thread::id began;
  std::thread::id ended;
  for (int round = 0; round < 20; ++round) {
    const std::thread::id ended_before = ended;
    std::atomic<int> arrived{0};
    const int error = RunTask(&pool, 2, [&](int32_t task_id, int32_t) {
      (task_id == 0 ? began : ended) = std::this_thread::get_id();
      ++arrived;
      return Await([&] { return arrived == 2; }) ? 0 : 1;
    });
    EXPECT_EQ(error, 0);
    EXPECT_TRUE(began != ended);
    EXPECT_TRUE(round == 0 || began == ended_before);
  }
}

TEST(WorkersSleepBetweenSteps) {
  ThreadPool pool(3);
  EXPECT_TRUE(TwoThreadsMeet(&pool));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const double busy_ms = 1e3 * static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(busy_ms, 50.0);
}

TEST(PoolsStartAndStopAtAnyMoment) {
  for (int round = 0; round < 400 / kStressScale; ++round) {
    ThreadPool pool(1 + round % 4);
    if (round % 3 == 1) {
      pool.BeginStep();
    }
    if (round % 3 != 0) {
      std::atomic<int> runs{0};
      RunTask(&pool, 4, [&](int32_t, int32_t) {
        ++runs;
        return 0;
      });
      EXPECT_EQ(runs.load(), 4);
    }
  }
}

TEST(StepsNestAndMustBalance) {
  ThreadPool pool(2);
  pool.BeginStep();
  EXPECT_GT(pool.MeasureEmptyRegionNs(100), 0.0);
  EXPECT_TRUE(TwoThreadsMeet(&pool));
  pool.EndStep();
  EXPECT_THROW(pool.EndStep(), InvariantError);
  EXPECT_THROW(ThreadPool(0), InvariantError);
}

}  // namespace
}  // namespace mlc_server
