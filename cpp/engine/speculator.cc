#include "engine/speculator.h"

#include <algorithm>

namespace mlc_server {
namespace {

constexpr int32_t kStep = 32;  // credit that a step with guesses costs
constexpr int32_t kInitialCredit = 2 * kStep;
constexpr int32_t kMaxCredit = 4 * kStep;

}  // namespace

Speculator::Speculator(const EngineConfig& config)
    : proposer_(config.ngram_min, config.ngram_max), credit_(kInitialCredit) {}

void Speculator::Propose(const std::vector<int32_t>& tokens, int32_t count,
                         std::vector<int32_t>* drafts) {
  drafts->clear();
  if (count > 0 && credit_ >= kStep) {
    proposer_.Propose(tokens, count, drafts);
  }
}

void Speculator::NoteStep(int32_t num_drafts, int32_t num_accepted) {
  const int32_t earned = num_drafts > 0 ? (num_accepted - 1) * kStep : 1;
  credit_ = std::clamp(credit_ + earned, 0, kMaxCredit);
}

}  // namespace mlc_server
