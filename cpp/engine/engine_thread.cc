#include "engine/engine_thread.h"

#include <pthread.h>

#include <chrono>
#include <utility>

namespace mlc_server {
namespace {

// An idle engine still comes round this often, so that its heartbeat shows a living thread.
constexpr std::chrono::milliseconds kIdleHeartbeat{200};

}  // namespace

EngineThread::EngineThread(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

EngineThread::~EngineThread() { Stop(); }

Status EngineThread::Start() {
  std::lock_guard<std::mutex> lock(lifecycle_mutex_);
  if (started_ || stop_requested_) {
    return Error{ErrorCode::kUnavailable, "", "the engine was started before"};
  }
  started_ = true;
  thread_ = std::thread([this] { Loop(); });
  return std::nullopt;
}

void EngineThread::Stop() {
  std::lock_guard<std::mutex> lock(lifecycle_mutex_);
  stop_requested_ = true;
  engine_->Wake();
  if (thread_.joinable()) {
    thread_.join();
  }
  engine_->Shutdown();
}

std::string EngineThread::Health() const {
  const std::string health = engine_->Health();
  return health == "ok" && !started_ ? "not started" : health;
}

EngineStats EngineThread::Stats() const {
  EngineStats stats = engine_->Stats();
  stats.alive = stats.alive && started_;
  return stats;
}

void EngineThread::Loop() {
  pthread_setname_np(pthread_self(), "mlc-engine");
  while (!stop_requested_) {
    switch (engine_->Step()) {
      case Engine::StepOutcome::kRan:
        break;
      case Engine::StepOutcome::kIdle:
        engine_->WaitForWork(kIdleHeartbeat);
        break;
      case Engine::StepOutcome::kEnded:
        return;
    }
  }
}

}  // namespace mlc_server
