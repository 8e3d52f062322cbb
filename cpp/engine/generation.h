#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/engine_config.h"
#include "core/sequence.h"
#include "engine/output.h"
#include "engine/speculator.h"
#include "sampling/sampler.h"
#include "text/text_stream.h"

namespace mlc_server {

// A Sequence with what sampling and text need besides. Every Sequence that the engine gives to the
// scheduler is one of these, so a batch entry leads back to it.
struct Generation : Sequence {
  Generation(std::shared_ptr<const Request> request, int32_t choice, SequenceId id,
             const Vocabulary* vocabulary, const EngineConfig& config);

  // What the grammar lets come next, as Sampler::Sample takes it; null without a grammar.
  // Throws std::runtime_error, for the client to read, when the grammar cannot go on.
  const uint32_t* AllowedTokens();
  // Tokens that may not be drawn yet: the ending ones, until min_tokens are there.
  const std::vector<int32_t>& banned() const;
  // Appends a drawn token: counts it, turns it into text, and decides whether it is the last one.
  // `item` is this choice's news; `limit` is the most tokens the sequence may have. Throws as
  // AllowedTokens() does.
  void Append(SampleResult&& drawn, int32_t limit, OutputItem* item);
  // An item that names this choice and its usage so far, and reports nothing.
  OutputItem MakeItem() const;

  // What is still to be told of the prompt (see OutputItem).
  int64_t queue_ns = -1;

  TokenCounts counts;
  TextStream text;
  std::unique_ptr<Speculator> speculator;  // null until the first guess is wanted

 private:
  // Whether `token_id` ends generation, and why.
  bool EndsAt(int32_t token_id, OutputItem* item) const;
  // Takes the token through the grammar; true when nothing may follow it.
  bool CompletesGrammar(int32_t token_id);

  const std::vector<int32_t>* eos_token_ids_;  // none under ignore_eos
  std::vector<int32_t> ending_ids_;            // EOS and stop ids; filled if min_tokens > 0
  std::unique_ptr<GrammarMatcher> matcher_;    // null without a grammar
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
