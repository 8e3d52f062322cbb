#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/engine_config.h"
#include "core/sequence.h"
#include "engine/grammar_workers.h"
#include "engine/output.h"
#include "engine/speculator.h"
#include "sampling/sampler.h"
#include "text/text_stream.h"

namespace mlc_server {

// A Sequence with what sampling and text need besides. Every Sequence that the engine gives to the
// scheduler is one of these, so a batch entry leads back to it.
struct Generation : Sequence {
  // `workers` outlive it.
  Generation(std::shared_ptr<const Request> request, int32_t choice, SequenceId id,
             const Vocabulary* vocabulary, const EngineConfig& config, GrammarWorkers* workers);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // What the grammar lets come next, as Sampler::Sample takes it; null without a grammar.
  const uint32_t* AllowedTokens() const;
  // Tokens that may not be drawn yet: the ending ones, until min_tokens are there.
  const std::vector<int32_t>& banned() const;
  // Appends a drawn token: counts it, turns it into text, and decides whether it is the last one,
  // unless the grammar has a say: then the generation is `unsettled`, and if it must not go on
  // whatever the grammar says, held. `item` is this choice's news; `limit` is the most tokens the
  // sequence may have.
  void Append(SampleResult&& drawn, int32_t limit, OutputItem* item);
  // Decides that once `progress` of the grammar is more than kPending; true when it is the end.
  // Throws std::runtime_error, for the client to read, when the grammar cannot go on.
  bool Settle(GrammarProgress progress, OutputItem* item);
  // An item that names this choice and its usage so far, and reports nothing.
  OutputItem MakeItem() const;

  // What is still to be told of the prompt (see OutputItem).
  int64_t queue_ns = -1;

  TokenCounts counts;
  TextStream text;
  std::unique_ptr<Speculator> speculator;     // null until the first guess is wanted
  std::shared_ptr<GrammarFollower> follower;  // null without a grammar
  bool unsettled = false;  // what the grammar makes of the last token has not been looked at

 private:
  // Whether `token_id` ends generation, and why.
  bool EndsAt(int32_t token_id, OutputItem* item) const;
  const std::vector<int32_t>* eos_token_ids_;  // none under ignore_eos
  std::vector<int32_t> ending_ids_;            // EOS and stop ids; filled if min_tokens > 0
  GrammarWorkers* workers_;
  bool is_full_ = false;  // no token may follow the last one
};

// A request under way and its choices.
struct OpenRequest {
  std::shared_ptr<const Request> request;
  std::vector<std::unique_ptr<Generation>> choices;
  int64_t arrival_ns = 0;
  int32_t num_open = 0;  // choices that have not ended
  bool started = false;  // some token of it has run, so it is not waiting any more
};

}  // namespace mlc_server
