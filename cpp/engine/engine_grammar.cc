// Engine: outputs that follow a grammar.

#include <algorithm>
#include <exception>
#include <utility>

#include "base/check.h"
#include "engine/engine.h"

namespace mlc_server {

Engine::Turn Engine::TakeTurn(Generation* generation, OutputItem* item) {
  if (generation->follower == nullptr) {
    return Turn::kDraw;
  }
  const GrammarProgress progress =
      grammar_workers_.Progress(*generation->follower, GrammarProgress::kKnown, mask_deadline_);
  if (progress != GrammarProgress::kKnown) {
    return Turn::kWait;
  }
  StopFollowing(generation);
  return generation->Settle(progress, item) ? Turn::kEnd : Turn::kDraw;
}

void Engine::StopFollowing(const Generation* generation) {
  following_.erase(std::remove(following_.begin(), following_.end(), generation), following_.end());
}

void Engine::HoldBack(Generation* generation) {
  scheduler_.RunAgain(generation);
  if (!generation->unsettled) {
    following_.push_back(generation);
  }
  generation->held = true;
  grammar_workers_.WakeWhenKnown(generation->follower.get());
}

void Engine::SettleAll(GrammarWorkers::Clock::time_point deadline) {
  settling_.clear();
  settling_.swap(following_);
  for (Generation* generation : settling_) {
    // A choice can end before its turn here, when another choice of its request failed.
    if (generation->state == SequenceState::kFinished) {
      continue;
    }
    try {
      if (!SettleOne(generation, deadline)) {
        following_.push_back(generation);
      }
    } catch (const InvariantError&) {
      throw;
    } catch (const std::exception& error) {
      FinishRequest(Find(generation->request->id), FinishReason::kError, error.what());
    }
  }
  if (!following_.empty()) {
    grammar_workers_.CancelOverdue();
  }
}

bool Engine::SettleOne(Generation* generation, GrammarWorkers::Clock::time_point deadline) {
  const GrammarFollower& follower = *generation->follower;
  if (generation->unsettled) {
    const GrammarProgress progress =
        grammar_workers_.Progress(follower, GrammarProgress::kConsumed, deadline);
    if (progress == GrammarProgress::kPending) {
      if (generation->held) {
        grammar_workers_.WakeWhenKnown(generation->follower.get());
      }
      return false;
    }
    OutputItem item = generation->MakeItem();
    if (generation->Settle(progress, &item)) {
      FinishChoice(generation, std::move(item));
      return true;
    }
  }
  if (!generation->held) {
    return true;
  }
  const GrammarProgress progress = grammar_workers_.Progress(follower);
  if (progress != GrammarProgress::kKnown) {
    return false;
  }
  OutputItem item = generation->MakeItem();
  MLC_CHECK(!generation->Settle(progress, &item));  // throws if it failed; it has not ended
  generation->held = false;
  return true;
}

}  // namespace mlc_server
