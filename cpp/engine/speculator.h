#pragma once

#include <cstdint>
#include <vector>

#include "core/engine_config.h"
#include "engine/ngram_proposer.h"

namespace mlc_server {

// Decides for one sequence when to guess ahead, and guesses.
//
// A step that checks guesses takes somewhat longer than one that does not, so guessing must earn
// its keep. It is paid for with credit: such a step costs one, each guess that was right earns one,
// and each step without guesses earns a thirty-second. Text that repeats is always guessed; in text
// that does not, one step in thirty-three tries, which bounds the loss to 3 % of what the guesses'
// rows cost.
class Speculator {
 public:
  explicit Speculator(const EngineConfig& config);

  // Replaces `drafts` by at most `count` guesses of the tokens after `tokens`, perhaps none.
  // `tokens` begins with those of the call before.
  void Propose(const std::vector<int32_t>& tokens, int32_t count, std::vector<int32_t>* drafts);
  // Notes a step in which `num_drafts` guesses were checked and `num_accepted` were right; both are
  // 0 for a step without.
  void NoteStep(int32_t num_drafts, int32_t num_accepted);

 private:
  NgramProposer proposer_;
  int32_t credit_;  // thirty-seconds of a step
};

}  // namespace mlc_server
