// Engine: from a step's logits to tokens.

#include <algorithm>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <utility>

#include "base/check.h"
#include "engine/engine.h"

namespace mlc_server {
namespace {

// Throws when a value is NaN or infinite, that is, when some exponent is all ones. Plain integer
// arithmetic, because compilers vectorise it without being allowed to assume finite floats.
void CheckFinite(const float* values, int32_t count) {
  constexpr uint32_t kExponent = 0x7f800000u;
  uint32_t any_bad = 0;
  for (int32_t idx = 0; idx < count; ++idx) {
    uint32_t bits;
    std::memcpy(&bits, &values[idx], sizeof(bits));
    any_bad |= static_cast<uint32_t>((bits & kExponent) == kExponent);
  }
  if (any_bad != 0) {
    throw std::runtime_error("the model produced logits that are not finite");
  }
}

}  // namespace

void Engine::Deliver(const Batch& batch, const LogitsView& logits) {
  const float* row = logits.data;
  for (const BatchEntry& entry : batch.entries) {
    // A choice can end before its turn here, when another choice of its request failed.
    if (entry.sequence->state != SequenceState::kFinished) {
      try {
        DeliverEntry(entry, row);
      } catch (const InvariantError&) {
        throw;
      } catch (const std::exception& error) {
        FinishRequest(Find(entry.sequence->request->id), FinishReason::kError, error.what());
      }
    }
    row += static_cast<int64_t>(entry.num_logit_rows()) * logits.vocab_size;
  }
}

void Engine::DeliverEntry(const BatchEntry& entry, const float* logits) {
  auto* generation = static_cast<Generation*>(entry.sequence);
  OutputItem item = generation->MakeItem();
  Score(entry, logits, &item);
  if (entry.wants_logits) {
    logits += static_cast<int64_t>(entry.num_scored) * config_.vocab_size;
    Advance(generation, entry.num_drafts, logits, std::move(item));
  } else {
    ReportPrompt(generation, std::move(item));
  }
}

void Engine::ReportPrompt(Generation* generation, OutputItem item) {
  if (generation->queue_ns >= 0 || !item.prompt_logprobs.empty()) {
    Report(generation, std::move(item));
  }
}

void Engine::Score(const BatchEntry& entry, const float* logits, OutputItem* item) {
  const Sequence& sequence = *entry.sequence;
  item->prompt_logprobs.reserve(entry.num_scored);
  for (int32_t index = 0; index < entry.num_scored; ++index, logits += config_.vocab_size) {
    CheckFinite(logits, config_.vocab_size);
    const int32_t next_token = sequence.tokens[entry.first_scored + index + 1];
    item->prompt_logprobs.push_back(
        sampler_.Score(logits, next_token, sequence.request->sampling.prompt_logprobs));
  }
}

// A draft is right when it is what the sampler draws from the row before it, with all the tokens
// before it taken into account. So tokens are those that come without drafts.
void Engine::Advance(Generation* generation, int32_t num_drafts, const float* logits,
                     OutputItem item) {
  if (generation->request->sampling.max_tokens == 0) {
    item.finish_reason = FinishReason::kLength;
    FinishChoice(generation, std::move(item));
    return;
  }
  int32_t num_right = 0;
  for (;; logits += config_.vocab_size) {
    SampleResult drawn;
    try {
      const Turn turn = TakeTurn(generation, &item);
      if (turn == Turn::kEnd) {
        FinishChoice(generation, std::move(item));
        return;
      }
      if (turn == Turn::kWait && num_right == 0) {
        HoldBack(generation);
        ReportPrompt(generation, std::move(item));
        return;
      }
      if (turn == Turn::kWait) {
        // Its turn comes again: the next step runs the latest token, after this one's news.
        --num_right;
        break;
      }
      drawn = Draw(generation, logits);
    } catch (const std::exception&) {
      if (num_right == 0) {
        throw;
      }
      // Reported in its turn: the next step runs the latest token again, after this one's news.
      --num_right;
      break;
    }
    const int32_t token_id = drawn.token_id;
    generation->Append(std::move(drawn), config_.MaxTokensPerSequence(), &item);
    ++stats_.generated_tokens;
    const bool is_right = num_right < num_drafts && token_id == generation->drafts[num_right];
    stats_.accepted_tokens += is_right ? 1 : 0;
    if (item.finish_reason != FinishReason::kNone) {
      FinishChoice(generation, std::move(item));
      return;
    }
    if (!is_right) {
      break;
    }
    ++num_right;
  }
  if (num_drafts > 0) {
    scheduler_.KeepDrafts(generation, num_right);
  }
  Report(generation, std::move(item));
  if (generation->unsettled) {
    following_.push_back(generation);
  }
  Speculate(generation, num_drafts, num_right);
}

SampleResult Engine::Draw(Generation* generation, const float* logits) {
  CheckFinite(logits, config_.vocab_size);
  SampleResult drawn = sampler_.Sample(logits, generation->request->sampling, generation->counts,
                                       generation->choice, generation->num_generated(),
                                       generation->banned(), generation->AllowedTokens());
  if (drawn.status == SampleStatus::kNoCandidate) {
    throw std::runtime_error("no token is left to draw: all are banned");
  }
  return drawn;
}

}  // namespace mlc_server
