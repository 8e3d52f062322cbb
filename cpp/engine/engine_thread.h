#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/result.h"
#include "engine/engine.h"

namespace mlc_server {

// Drives an Engine from a thread of its own: steps while there is work, sleeps on a condition
// variable when there is none. Start and Stop are for any thread.
class EngineThread {
 public:
  explicit EngineThread(std::unique_ptr<Engine> engine);
  ~EngineThread();  // stops
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // Starts serving. kUnavailable when it was started before: an engine serves once.
  Status Start();
  // Finishes the current step, ends what is open with kError and joins. Idempotent.
  void Stop();

  // Engine::Health(), or "not started".
  std::string Health() const;
  EngineStats Stats() const;

  Engine& engine() { return *engine_; }
  const Engine& engine() const { return *engine_; }

 private:
  void Loop();

  std::unique_ptr<Engine> engine_;
  std::atomic<bool> stop_requested_{false};
  std::atomic<bool> started_{false};
  std::mutex lifecycle_mutex_;  // guards thread_; one Start or Stop at a time
  std::thread thread_;
};

}  // namespace mlc_server
