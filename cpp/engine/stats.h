#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

namespace mlc_server {

// What the engine has done and is doing. Counters only grow.
struct EngineStats {
  // Now.
  int32_t num_running = 0;  // sequences that hold pages
  int32_t num_waiting = 0;  // requests no token of which has run yet
  int32_t num_open = 0;     // requests that have not ended
  int32_t free_pages = 0;
  int32_t total_pages = 0;
  int32_t last_batch_sequences = 0;  // of the latest step that ran the model
  int32_t last_batch_tokens = 0;
  int64_t last_step_ns = 0;
  bool alive = false;            // steps are being taken
  int64_t heartbeat_age_ns = 0;  // since the engine thread last came round its loop
  // Since the start.
  int64_t num_steps = 0;       // that ran the model
  int64_t busy_ns = 0;         // spent in those steps
  int64_t prefill_tokens = 0;  // rows run for prompts, or run again after a preemption
  int64_t generated_tokens = 0;
  int64_t drafted_tokens = 0;   // guesses of the next tokens that were checked,
  int64_t accepted_tokens = 0;  // and those that were right: they cost no step of their own
  int64_t preemptions = 0;
  int64_t finished_stop = 0;  // choices, by finish reason
  int64_t finished_length = 0;
  int64_t finished_cancelled = 0;
  int64_t finished_error = 0;
};

// The latest EngineStats, for readers on any thread. The lock is held for one copy, so a reader
// delays the step by nanoseconds at most. The heartbeat is apart: it must move even if no step
// ends.
class StatsBoard {
 public:
  void Publish(const EngineStats& stats);
  // `num_waiting`, `alive` and `heartbeat_age_ns` are for the caller to fill in.
  EngineStats Read() const;

  void Beat(int64_t now_ns) { heartbeat_ns_.store(now_ns, std::memory_order_relaxed); }
  int64_t heartbeat_ns() const { return heartbeat_ns_.load(std::memory_order_relaxed); }

 private:
  mutable std::mutex mutex_;
  EngineStats stats_;
  std::atomic<int64_t> heartbeat_ns_{0};
};

}  // namespace mlc_server
