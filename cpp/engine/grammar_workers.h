#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <ctime>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/grammar_follower.h"

namespace mlc_server {

// A token whose consequences take a worker longer than this ends its request.
constexpr int64_t kMaxGrammarStepNs = 100'000'000;  // of CPU time; GRAMMAR_STEP_MS of limits.py
// A grammar is slow once one of its outputs has used up its allowance of CPU time: so much at first
// and at most, for the occasional mask that takes some milliseconds, and so much more with each
// token. Most take a tenth of that.
constexpr int64_t kGrammarAllowanceNs = 25'000'000;
constexpr int64_t kGrammarAllowancePerTokenNs = 2'000'000;

// Works out what grammars allow while the model runs, on threads of its own, so that an expensive
// grammar costs the outputs that follow it and nobody else.
//
// Two lanes: ordinary grammars share one of two threads, of which each grammar occupies one at
// most; those that have been slow share one of a single thread of low priority, where they wait for
// each other. The threads start with the first follower.
class GrammarWorkers {
 public:
  using Clock = std::chrono::steady_clock;

  // `wake` is called from a worker once a follower given to WakeWhenKnown() is known.
  explicit GrammarWorkers(std::function<void()> wake) : wake_(std::move(wake)) {}
  ~GrammarWorkers();
  GrammarWorkers(const GrammarWorkers&) = delete;
  GrammarWorkers& operator=(const GrammarWorkers&) = delete;

  // The rest is called by one thread, the engine's.

  // A follower at the beginning of an output. Throws std::system_error when no thread starts.
  std::shared_ptr<GrammarFollower> Begin(std::shared_ptr<const Grammar> grammar);
  // Takes a token of allowed() through a follower that is known and has not ended. After the
  // `is_last` one nothing is allowed, and its outcome says only whether the grammar is complete.
  void Advance(const std::shared_ptr<GrammarFollower>& follower, int32_t token_id, bool is_last);
  // How far it is. Waits until `deadline` for it to be `least` at least, unless it is slow.
  GrammarProgress Progress(const GrammarFollower& follower,
                           GrammarProgress least = GrammarProgress::kPending,
                           Clock::time_point deadline = {});
  void WakeWhenKnown(GrammarFollower* follower);
  // Makes the followers fail whose token has been worked on for too long.
  void CancelOverdue();
  // Ends work on a follower and lets go of it, on a worker: it may be large.
  void Drop(std::shared_ptr<GrammarFollower> follower);

 private:
  struct Worker {
    std::thread thread;
    clockid_t cpu_clock = 0;
    GrammarFollower* working_on = nullptr;  // until kKnown
    int64_t began_ns = 0;                   // on cpu_clock
  };
  struct Lane {
    std::deque<std::shared_ptr<GrammarFollower>> queue;
    std::condition_variable has_work;
  };
  enum LaneIndex { kOrdinary, kSlow, kNumLanes };
  static constexpr std::array<LaneIndex, 3> kLaneOfWorker = {kOrdinary, kOrdinary, kSlow};

  void StartThreads();
  void Queue(std::shared_ptr<GrammarFollower> follower);
  void Run(size_t worker_idx);
  // Takes the next follower to work on from a lane's queue; null if there is none now.
  std::shared_ptr<GrammarFollower> Take(LaneIndex lane_idx);
  // After work on a grammar, for which followers in either lane may have waited.
  void WakeThoseWaiting();
  void Work(Worker* worker, GrammarFollower* follower);
  void Finish(Worker* worker, GrammarFollower* follower, Status failure, bool is_complete,
              const uint32_t* allowed);
  void NoteConsumed(GrammarFollower* follower);

  const std::function<void()> wake_;
  std::mutex mutex_;
  std::condition_variable has_progress_;  // some follower's
  bool is_waited_for_ = false;            // by the engine, on has_progress_
  bool stopping_ = false;
  std::array<Lane, kNumLanes> lanes_;
  std::array<Worker, kLaneOfWorker.size()> workers_;
  bool started_ = false;
};

}  // namespace mlc_server
