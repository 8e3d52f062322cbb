#pragma once

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/result.h"
#include "engine/engine.h"

namespace mlc_server {

// Drives an Engine from a thread of its own: steps while there is work, sleeps on a condition
// variable when there is none. Start, Stop, Health and Stats are for any thread.
class EngineThread {
 public:
  explicit EngineThread(std::unique_ptr<Engine> engine);
  // Stops. A step that hangs is waited for a few seconds only: then the thread is left behind
  // together with the engine, because it cannot be ended and the process must be able to.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // Starts serving. kUnavailable when it was started before: an engine serves once.
  Status Start();
  // Lets the current step finish, then ends what is open with kError. False when the step took
  // longer than `timeout`: the thread still runs, and nobody has been answered. Idempotent.
  bool Stop(std::chrono::nanoseconds timeout);

  // Engine::Health(), or "not started".
  std::string Health() const;
  EngineStats Stats() const;

  Engine& engine() { return *shared_->engine; }

 private:
  // What the thread uses: it may outlive this object.
  struct Shared {
    std::unique_ptr<Engine> engine;
    std::atomic<bool> stop_requested{false};
    std::promise<void> ended;
  };

  static void Loop(Shared* shared);

  std::shared_ptr<Shared> shared_;
  std::atomic<bool> started_{false};
  std::mutex lifecycle_mutex_;  // guards thread_; one Start or Stop at a time
  std::thread thread_;
  std::future<void> ended_;
};

}  // namespace mlc_server
