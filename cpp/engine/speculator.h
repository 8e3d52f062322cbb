#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/engine_config.h"
#include "engine/ngram_proposer.h"
#include "engine/step_costs.h"

namespace mlc_server {

// Decides for one sequence when to guess ahead and how far, and guesses.
//
// A step that checks guesses takes longer than one that does not, so guessing must earn its keep.
// How far it goes is what promises most tokens for the time: from how often such guesses were right
// before, and from what rows cost on this machine. It is paid for with credit, in tokens: checking
// costs what its rows cost, each guess that was right earns one, and each step without guesses a
// little, for a try now and then. So a text that never repeats loses a token and 1 % at most.
class Speculator {
 public:
  explicit Speculator(const EngineConfig& config);

  // Replaces `drafts` by at most `most` guesses of the tokens after `tokens`, perhaps none, for a
  // step that has `rows` rows without them. `tokens` begins with those of the call before.
  void Propose(const std::vector<int32_t>& tokens, int32_t most, int32_t rows,
               const StepCosts& costs, std::vector<int32_t>* drafts);
  // Notes a step in which `num_drafts` guesses were checked and `num_accepted` were right; both are
  // 0 for a step without. `draft_cost`: of each guess, in tokens.
  void NoteStep(int32_t num_drafts, int32_t num_accepted, double draft_cost);

 private:
  // How many guesses pay, of up to `most`, if each is right with `probability`; perhaps none.
  int32_t BestCount(double probability, int32_t most, int32_t rows, const StepCosts& costs) const;

  NgramProposer proposer_;
  double credit_;
  // How often guesses were right lately, by how many tokens before them were the same.
  std::array<double, 3> right_;
  size_t latest_kind_ = 0;        // of the guesses proposed last
  bool latest_was_right_ = true;  // all of the guesses checked last were
  int32_t num_steps_without_ = 0;
};

}  // namespace mlc_server
