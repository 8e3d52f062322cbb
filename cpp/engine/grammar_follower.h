#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "base/result.h"
#include "core/grammar.h"

namespace mlc_server {

// How far a follower's last token has come.
enum class GrammarProgress {
  kPending,   // nothing is known yet
  kConsumed,  // the grammar allows it and goes on after it; what may follow is not known yet
  kKnown      // the follower's outcome holds
};

// One output's way through its grammar, walked by GrammarWorkers: the engine hands in a token and
// looks later at what may follow. The outcome is for the engine's thread, and while it is kKnown.
class GrammarFollower {
 public:
  explicit GrammarFollower(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {}

  // Why the output cannot go on, if it cannot.
  const Status& failure() const { return failure_; }
  // Nothing but the end may follow.
  bool is_complete() const { return is_complete_; }
  // What may follow, as GrammarMatcher::AllowedTokens() has it; null after a failure or at the end.
  const uint32_t* allowed() const { return allowed_; }
  // It is better to go on with something else than to wait for it.
  bool is_slow() const { return grammar_->is_slow(); }

 private:
  friend class GrammarWorkers;

  const std::shared_ptr<const Grammar> grammar_;
  std::unique_ptr<GrammarMatcher> matcher_;
  int32_t token_ = -1;  // to be taken through; -1 is the beginning
  bool is_last_ = false;
  Status failure_;
  bool is_complete_ = false;
  const uint32_t* allowed_ = nullptr;
  int64_t spent_ns_ = 0;  // of the allowance: see GrammarWorkers

  // Under the workers' mutex.
  GrammarProgress progress_ = GrammarProgress::kPending;
  bool wakes_engine_ = false;  // when it is known
  bool dropped_ = false;       // nobody will look at it any more
  bool overdue_ = false;       // it was cancelled for taking too long
};

}  // namespace mlc_server
