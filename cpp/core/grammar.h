#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/result.h"

namespace mlc_server {

// Follows one output through a grammar. Used by one thread at a time, Cancel() excepted.
// After an error every later call fails: the output cannot go on.
class GrammarMatcher {
 public:
  virtual ~GrammarMatcher() = default;

  // The tokens that may come next: bit id % 32 of word id / 32, for ids in [0, vocab_size). EOS
  // ids are among them where the output may end. Valid until the next call.
  virtual Result<const uint32_t*> AllowedTokens() = 0;
  // Advances by a token that AllowedTokens() had, EOS excepted.
  virtual Status Consume(int32_t token_id) = 0;
  // Nothing but the end may follow.
  virtual bool IsComplete() const = 0;
  // From any thread: the call under way, and every later one, fails soon.
  virtual void Cancel() = 0;
};

// What an output must match. Immutable and shared by requests and threads.
class Grammar {
 public:
  virtual ~Grammar() = default;
  // A matcher at the beginning of an output. Never null; its first call reports a failure.
  virtual std::unique_ptr<GrammarMatcher> NewMatcher() const = 0;

  // Whether following it has ever taken so long that nobody should wait for it.
  bool is_slow() const { return is_slow_; }
  void NoteSlow() const { is_slow_ = true; }

 private:
  mutable std::atomic<bool> is_slow_{false};
};

}  // namespace mlc_server
