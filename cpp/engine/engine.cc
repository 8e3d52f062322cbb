#include "engine/engine.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/check.h"
#include "engine/batch_builder.h"
#include "engine/model_fit.h"

namespace mlc_server {
namespace {

// Steps in a row that may find work and nothing to run. The scheduler promises the first sequence a
// token in every step unless an allocation fails, so more than a few are a bug.
constexpr int32_t kMaxStalls = 16;
// How long a step may wait for grammars: the time that most of them take, and this part of the time
// the step has taken so far.
constexpr std::chrono::microseconds kLeastMaskWait{200};
constexpr int kMaskWaitFraction = 16;
// In a step of this many outputs one row more or less is worth waiting for.
constexpr size_t kFewEntries = 2;
constexpr char kShutdownError[] = "the server is shutting down";
constexpr char kDeadError[] = "the engine stopped because of an internal error";

GrammarWorkers::Clock::time_point GrammarDeadline(std::chrono::nanoseconds from_now) {
  return GrammarWorkers::Clock::now() + from_now;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Create(std::shared_ptr<ModelRunner> runner,
                                               std::shared_ptr<const Vocabulary> vocabulary,
                                               const EngineConfig& config,
                                               std::shared_ptr<const Clock> clock) {
  MLC_CHECK(runner != nullptr && vocabulary != nullptr && clock != nullptr);
  if (Status status = config.Validate()) {
    return *status;
  }
  if (Status status = CheckAgainstModel(config, runner->info())) {
    return *status;
  }
  if (Status status = runner->AllocateKv(config.num_pages)) {
    return *status;
  }
  return std::unique_ptr<Engine>(
      new Engine(std::move(runner), std::move(vocabulary), config, std::move(clock)));
}

Engine::Engine(std::shared_ptr<ModelRunner> runner, std::shared_ptr<const Vocabulary> vocabulary,
               const EngineConfig& config, std::shared_ptr<const Clock> clock)
    : config_(config),
      runner_(std::move(runner)),
      vocabulary_(std::move(vocabulary)),
      clock_(std::move(clock)),
      inbox_(config.max_queue_size),
      grammar_workers_([this] { inbox_.Wake(); }),
      pool_(config.num_pages),
      scheduler_(config, &pool_),
      sampler_(config.vocab_size),
      step_costs_(config.speculative_rows_max) {
  board_.Beat(clock_->NowNs());
  PublishStats();
}

Status Engine::Submit(Request request) {
  if (Status status = request.Validate(config_)) {
    return status;
  }
  const size_t max_unread = static_cast<size_t>(config_.max_queue_size + config_.max_batch_size) *
                            static_cast<size_t>(config_.max_choices);
  if (const size_t unread = outbox_.num_unread(); unread > max_unread) {
    return Error{ErrorCode::kQueueFull, "",
                 "the output of " + std::to_string(unread) + " choices has not been read yet"};
  }
  return inbox_.Submit(std::make_shared<const Request>(std::move(request)), clock_->NowNs());
}

EngineStats Engine::Stats() const {
  EngineStats stats = board_.Read();
  stats.num_waiting = inbox_.num_waiting();
  stats.heartbeat_age_ns = clock_->NowNs() - board_.heartbeat_ns();
  std::lock_guard<std::mutex> lock(health_mutex_);
  stats.alive = state_ == State::kServing;
  return stats;
}

std::string Engine::Health() const {
  std::lock_guard<std::mutex> lock(health_mutex_);
  switch (state_) {
    case State::kServing:
      return "ok";
    case State::kDead:
      return "dead: " + end_reason_;
    case State::kStopped:
      return "stopped";
  }
  return "dead: unknown state";
}

Engine::StepOutcome Engine::Step() {
  board_.Beat(clock_->NowNs());
  bool ran = false;
  try {
    {
      std::lock_guard<std::mutex> lock(health_mutex_);
      if (state_ != State::kServing) {
        return StepOutcome::kEnded;
      }
    }
    ran = RunStep();
    EraseFinished();
    if (config_.check_every_step || (was_busy_ && !ran)) {
      CheckIntegrity();
    }
    was_busy_ = ran;
    PublishStats();  // first, so that who has read the output finds its end counted
    outbox_.Publish(&items_);
  } catch (const std::exception& error) {
    End(State::kDead, error.what(), kDeadError);
    return StepOutcome::kEnded;
  } catch (...) {
    End(State::kDead, "an exception of unknown type", kDeadError);
    return StepOutcome::kEnded;
  }
  return ran ? StepOutcome::kRan : StepOutcome::kIdle;
}

void Engine::Shutdown() { End(State::kStopped, "", kShutdownError); }

bool Engine::RunStep() {
  TakeCommands();
  ReserveOutput();
  SettleAll({});
  const Batch batch = scheduler_.Schedule();
  stats_.preemptions += static_cast<int64_t>(batch.preempted.size());
  if (batch.entries.empty()) {
    return NoteEmptyBatch();
  }
  num_stalls_ = 0;
  const int64_t start_ns = clock_->NowNs();
  MarkStarted(batch, start_ns);
  BuildModelInput(batch, config_.page_size, &input_);
  const LogitsView logits = runner_->Run(input_);
  MLC_CHECK(logits.rows == static_cast<int32_t>(input_.logit_rows.size()) &&
            logits.vocab_size == config_.vocab_size)
      << "asked for " << input_.logit_rows.size() << " x " << config_.vocab_size << " logits, got "
      << logits.rows << " x " << logits.vocab_size;
  scheduler_.Commit(batch);
  mask_deadline_ = GrammarDeadline(
      std::chrono::nanoseconds(clock_->NowNs() - start_ns) / kMaskWaitFraction + kLeastMaskWait);
  PriceDrafts(batch);
  Deliver(batch, logits);
  // Else a row of the next step is lost to each of them that has ended.
  const bool few = batch.entries.size() <= kFewEntries;
  SettleAll(few ? GrammarDeadline(kLeastMaskWait) : GrammarWorkers::Clock::time_point());
  const int64_t step_ns = clock_->NowNs() - start_ns;
  NoteStepCost(batch, step_ns);
  CountStep(batch, step_ns);
  return true;
}

bool Engine::NoteEmptyBatch() {
  if (!following_.empty()) {
    return false;  // woken when one of them can go on
  }
  const bool has_work = scheduler_.num_waiting() + scheduler_.num_running() > 0;
  num_stalls_ = has_work ? num_stalls_ + 1 : 0;
  MLC_CHECK(num_stalls_ <= kMaxStalls) << "nothing can run although " << scheduler_.num_waiting()
                                       << " wait and " << scheduler_.num_running() << " run";
  return has_work;
}

void Engine::TakeCommands() {
  commands_ = inbox_.Take();
  for (; next_command_ < commands_.size(); ++next_command_) {
    const Command& command = commands_[next_command_];
    if (command.request != nullptr) {
      Admit(command);
    } else if (OpenRequest* open = Find(command.request_id)) {
      FinishRequest(open, FinishReason::kCancelled, "");
    }
  }
  commands_.clear();
  next_command_ = 0;
  EraseFinished();
}

void Engine::Admit(const Command& command) {
  OpenRequest* open = nullptr;
  try {
    open = Open(command);
  } catch (const InvariantError&) {
    throw;
  } catch (const std::exception& error) {
    Refuse(*command.request, error.what());
    inbox_.NoteStarted(1);
    inbox_.NoteFinished(command.request_id);
    return;
  }
  for (const std::unique_ptr<Generation>& choice : open->choices) {
    scheduler_.Add(choice.get());
  }
}

OpenRequest* Engine::Open(const Command& command) {
  const std::shared_ptr<const Request>& request = command.request;
  auto owned = std::make_unique<OpenRequest>();
  owned->request = request;
  owned->arrival_ns = command.arrival_ns;
  for (int32_t choice = 0; choice < request->num_choices; ++choice) {
    owned->choices.push_back(std::make_unique<Generation>(
        request, choice, next_sequence_id_++, vocabulary_.get(), config_, &grammar_workers_));
  }
  owned->num_open = request->num_choices;
  OpenRequest* open = owned.get();
  const bool is_new = requests_.emplace(request->id, std::move(owned)).second;
  MLC_CHECK(is_new) << "request " << request->id << " is open twice";
  return open;
}

void Engine::MarkStarted(const Batch& batch, int64_t now_ns) {
  int32_t started = 0;
  for (const BatchEntry& entry : batch.entries) {
    OpenRequest* open = Find(entry.sequence->request->id);
    if (!std::exchange(open->started, true)) {
      ++started;
      static_cast<Generation*>(entry.sequence)->queue_ns = now_ns - open->arrival_ns;
    }
  }
  if (started > 0) {
    inbox_.NoteStarted(started);
  }
}

void Engine::Report(Generation* generation, OutputItem item) {
  item.queue_ns = std::exchange(generation->queue_ns, -1);
  items_.push_back(std::move(item));
}

void Engine::FinishChoice(Generation* generation, OutputItem item) {
  scheduler_.Remove(generation);
  StopFollowing(generation);
  CountFinish(item.finish_reason);
  Report(generation, std::move(item));
  OpenRequest* open = Find(generation->request->id);
  if (--open->num_open == 0) {
    finished_.push_back(generation->request->id);
  }
}

void Engine::FinishRequest(OpenRequest* open, FinishReason reason, const std::string& error) {
  for (const std::unique_ptr<Generation>& choice : open->choices) {
    if (choice->state != SequenceState::kFinished) {
      OutputItem item = choice->MakeItem();
      item.finish_reason = reason;
      item.error = error;
      FinishChoice(choice.get(), std::move(item));
    }
  }
}

OpenRequest* Engine::Find(RequestId request_id) {
  const auto found = requests_.find(request_id);
  return found == requests_.end() ? nullptr : found->second.get();
}

}  // namespace mlc_server
