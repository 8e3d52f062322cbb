#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "core/engine_config.h"
#include "engine/generation.h"
#include "engine/inbox.h"
#include "engine/outbox.h"
#include "engine/stats.h"
#include "kv/page_pool.h"
#include "model/model_runner.h"
#include "sampling/sampler.h"
#include "schedule/scheduler.h"
#include "text/vocabulary.h"

namespace mlc_server {

// Serves many requests with one model: requests go in at Submit(), output comes out at Drain(), and
// every Step() runs the model once over a mixed batch.
//
// Failure: what goes wrong for one request (its logits are not finite, memory for it runs out)
// ends that request with kError. A broken invariant or a runner that throws ends the engine: every
// open request gets kError, later ones are refused, Health() says why. Step() itself never throws.
//
// Threads: Submit, Cancel, Stats, Health and wake_fd are for any thread; Drain for one reader at a
// time; Step, WaitForWork and Shutdown for the one thread that drives the engine (EngineThread).
class Engine {
 public:
  // Checks the config against the model, takes `runner`'s KV pages and is ready for requests. The
  // runner serves nobody else while the engine lives.
  static Result<std::unique_ptr<Engine>> Create(std::shared_ptr<ModelRunner> runner,
                                                std::shared_ptr<const Vocabulary> vocabulary,
                                                const EngineConfig& config,
                                                std::shared_ptr<const Clock> clock);

  // Validates and queues. Errors: those of Request::Validate, kQueueFull (also while too much
  // output lies unread), kUnavailable when the engine is dead or stopped.
  Status Submit(Request request);
  // The request's open choices end with kCancelled and give their pages back in the next step.
  void Cancel(RequestId request_id) { inbox_.Cancel(request_id); }
  std::vector<OutputItem> Drain() { return outbox_.Drain(); }
  int wake_fd() const { return outbox_.wake_fd(); }
  EngineStats Stats() const;
  // "ok", or what ended the engine: "dead: <reason>" or "stopped".
  std::string Health() const;

  enum class StepOutcome {
    kRan,   // the model ran
    kIdle,  // nothing to do until a command comes
    kEnded  // dead or shut down: no later step does anything
  };
  StepOutcome Step();
  // Sleeps until a command comes, Wake() is called or `timeout` is over.
  void WaitForWork(std::chrono::nanoseconds timeout) { inbox_.Wait(timeout); }
  // Ends a WaitForWork(). From any thread.
  void Wake() { inbox_.Wake(); }
  // Ends every open request with kError and refuses later ones. Idempotent.
  void Shutdown();

  // The engine's books agree with the scheduler's and the page pool's. Engine thread.
  void CheckIntegrity() const;
  const Outbox& outbox() const { return outbox_; }
  // For tests that inject allocation faults.
  PagePool* page_pool() { return &pool_; }

 private:
  enum class State { kServing, kDead, kStopped };

  Engine(std::shared_ptr<ModelRunner> runner, std::shared_ptr<const Vocabulary> vocabulary,
         const EngineConfig& config, std::shared_ptr<const Clock> clock);

  // The parts of a step, in order; false when there was nothing to run.
  bool RunStep();
  // True while work is left that could not run in this step.
  bool NoteEmptyBatch();
  void TakeCommands();
  // Opens a request and hands its choices to the scheduler, or answers it with the error.
  void Admit(const Command& command);
  OpenRequest* Open(const Command& command);
  // Notes which requests `batch` is the first to run anything of.
  void MarkStarted(const Batch& batch, int64_t now_ns);
  void Deliver(const Batch& batch, const LogitsView& logits);
  // `logits` are the entry's rows: see BuildModelInput().
  void DeliverEntry(const BatchEntry& entry, const float* logits);
  // Reports `item` if it has news of the prompt, and nothing besides.
  void ReportPrompt(Generation* generation, OutputItem item);
  // Appends what the rows of the entry's scored tokens say. Throws std::runtime_error, for the
  // client to read.
  void Score(const BatchEntry& entry, const float* logits, OutputItem* item);
  // `logits` are those of the last token and of the `num_drafts` drafts after it.
  void Advance(Generation* generation, int32_t num_drafts, const float* logits, OutputItem item);

  // Outputs that follow a grammar. Nobody waits for a slow one, and for others a step waits only a
  // fraction of its own time: what is late is drawn after a later step.
  enum class Turn { kDraw, kWait, kEnd };
  // Whether `generation` can draw. kEnd: the grammar ends it, as `item` then says. Throws as
  // Generation::Settle() does.
  Turn TakeTurn(Generation* generation, OutputItem* item);
  void StopFollowing(const Generation* generation);
  // Keeps `generation` out of steps until its grammar knows how to go on.
  void HoldBack(Generation* generation);
  // Looks at what grammars make of the last tokens; waits for it until `deadline`.
  void SettleAll(GrammarWorkers::Clock::time_point deadline);
  // False while there is something to look at later. Throws as Generation::Settle() does.
  bool SettleOne(Generation* generation, GrammarWorkers::Clock::time_point deadline);

  // Throws std::runtime_error, for the client to read, when nothing can be drawn.
  SampleResult Draw(Generation* generation, const float* logits);
  void Speculate(Generation* generation, int32_t num_drafts, int32_t num_right);
  // What each draft of `batch` costs, before its step is noted.
  void PriceDrafts(const Batch& batch);
  void NoteStepCost(const Batch& batch, int64_t step_ns);
  void CountStep(const Batch& batch, int64_t step_ns);
  void PublishStats();

  // Adds news of a choice to this step's, with what else is to be told of it.
  void Report(Generation* generation, OutputItem item);

  // Ends of requests. Erasing waits for EraseFinished(), as batch entries point at generations.
  void FinishChoice(Generation* generation, OutputItem item);
  void FinishRequest(OpenRequest* open, FinishReason reason, const std::string& error);
  void CountFinish(FinishReason reason);
  void EraseFinished();
  // Answers a request that never became an OpenRequest.
  void Refuse(const Request& request, const std::string& error);
  // Makes room for what this step can report (per choice a token and an end), so that lack of
  // memory cannot come between ending a choice and saying so.
  void ReserveOutput();
  // Ends the engine: closes the inbox and answers everyone.
  void End(State state, const std::string& reason, const std::string& client_error);

  OpenRequest* Find(RequestId request_id);

  const EngineConfig config_;
  std::shared_ptr<ModelRunner> runner_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  std::shared_ptr<const Clock> clock_;
  Inbox inbox_;
  Outbox outbox_;
  StatsBoard board_;
  GrammarWorkers grammar_workers_;  // generations let go of their grammars to them

  // Engine thread only.
  PagePool pool_;
  Scheduler scheduler_;
  Sampler sampler_;
  ModelInput input_;
  std::unordered_map<RequestId, std::unique_ptr<OpenRequest>> requests_;
  std::vector<Command> commands_;                    // taken from the inbox in this step,
  size_t next_command_ = 0;                          // of which these are still to be carried out
  std::vector<RequestId> finished_;                  // ended in this step, still in requests_
  std::vector<OutputItem> items_;                    // of this step
  std::vector<Generation*> following_;               // those that are unsettled or held
  std::vector<Generation*> settling_;                // scratch
  GrammarWorkers::Clock::time_point mask_deadline_;  // until when this step waits for grammars
  StepCosts step_costs_;
  double draft_cost_ = 0;  // of each draft of this step, in tokens
  EngineStats stats_;
  SequenceId next_sequence_id_ = 0;
  bool was_busy_ = false;
  int32_t num_stalls_ = 0;  // steps in a row that had work and ran nothing

  mutable std::mutex health_mutex_;
  State state_ = State::kServing;
  std::string end_reason_;
};

}  // namespace mlc_server
