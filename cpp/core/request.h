#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "core/engine_config.h"
#include "core/event_format.h"
#include "core/grammar.h"
#include "core/sampling_params.h"

namespace mlc_server {

using RequestId = uint64_t;

// What a client asked for, after validation. Immutable once submitted.
struct Request {
  RequestId id = 0;                 // unique among open requests; chosen by the caller
  std::vector<int32_t> prompt_ids;  // at least one token
  SamplingParams sampling;
  int32_t num_choices = 1;  // n: independent continuations of the one prompt
  int32_t priority = 0;     // lower runs first; ties in order of arrival
  // The output begins a text of its own, so a space that the tokenizer puts before a first word is
  // dropped (EngineConfig::strip_leading_space). False when it goes on with the prompt's text.
  bool begins_text = true;
  // What every choice must match; null for free text. It decides where EOS may be drawn, so
  // ignore_eos has no effect then, and a choice ends as soon as nothing more can follow.
  std::shared_ptr<const Grammar> grammar;
  // How to write text that comes alone, with a prefix for each choice; null to hand it out as text.
  std::shared_ptr<const EventFormat> events;

  // Checks ids, sizes and context: prompt + 1, or with max_tokens 0 the prompt alone, must fit
  // config.MaxTokensPerSequence() (else kContextOverflow). Errors name the fields as clients do:
  // "prompt", "n", "temperature", ...
  Status Validate(const EngineConfig& config) const;
};

}  // namespace mlc_server
