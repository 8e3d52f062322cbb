#include "engine/engine_thread.h"

#include <pthread.h>

#include <utility>

namespace mlc_server {
namespace {

// An idle engine still comes round this often, so that its heartbeat shows a living thread.
constexpr std::chrono::milliseconds kIdleHeartbeat{200};
// How long the destructor waits for a step.
constexpr std::chrono::seconds kAbandonAfter{10};

}  // namespace

EngineThread::EngineThread(std::unique_ptr<Engine> engine) : shared_(std::make_shared<Shared>()) {
  shared_->engine = std::move(engine);
  ended_ = shared_->ended.get_future();
}

EngineThread::~EngineThread() {
  if (!Stop(kAbandonAfter)) {
    thread_.detach();
  }
}

Status EngineThread::Start() {
  std::lock_guard<std::mutex> lock(lifecycle_mutex_);
  if (started_ || shared_->stop_requested) {
    return Error{ErrorCode::kUnavailable, "", "the engine was started before"};
  }
  started_ = true;
  thread_ = std::thread([shared = shared_] { Loop(shared.get()); });
  return std::nullopt;
}

bool EngineThread::Stop(std::chrono::nanoseconds timeout) {
  std::lock_guard<std::mutex> lock(lifecycle_mutex_);
  shared_->stop_requested = true;
  engine().Wake();
  if (thread_.joinable()) {
    if (ended_.wait_for(timeout) != std::future_status::ready) {
      return false;
    }
    thread_.join();
  }
  engine().Shutdown();
  return true;
}

std::string EngineThread::Health() const {
  const std::string health = shared_->engine->Health();
  return health == "ok" && !started_ ? "not started" : health;
}

EngineStats EngineThread::Stats() const {
  EngineStats stats = shared_->engine->Stats();
  stats.alive = stats.alive && started_;
  return stats;
}

void EngineThread::Loop(Shared* shared) {
  pthread_setname_np(pthread_self(), "mlc-engine");
  Engine::StepOutcome outcome = Engine::StepOutcome::kIdle;
  while (!shared->stop_requested && outcome != Engine::StepOutcome::kEnded) {
    outcome = shared->engine->Step();
    if (outcome == Engine::StepOutcome::kIdle) {
      shared->engine->WaitForWork(kIdleHeartbeat);
    }
  }
  shared->ended.set_value();
}

}  // namespace mlc_server
