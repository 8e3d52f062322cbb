#include "core/request.h"

#include "core/validation.h"

namespace mlc_server {

Status Request::Validate(const EngineConfig& config) const {
  if (prompt_ids.empty()) {
    return Error{ErrorCode::kInvalidValue, "prompt", "prompt must have at least 1 token, got 0"};
  }
  const int32_t limit = config.MaxTokensPerSequence();
  const bool generates = sampling.max_tokens != 0;
  if (prompt_ids.size() + (generates ? 1 : 0) > static_cast<size_t>(limit)) {
    return Error{ErrorCode::kContextOverflow, "prompt",
                 std::string("prompt") + (generates ? " and one generated token" : "") +
                     " must fit " + std::to_string(limit) + " tokens, but the prompt has " +
                     std::to_string(prompt_ids.size())};
  }
  if (Status status = FirstError({
          CheckTokenIds("prompt", prompt_ids, config.vocab_size),
          CheckIntRange("n", num_choices, 1, config.max_choices),
      })) {
    return status;
  }
  if (events != nullptr && events->prefixes.size() != static_cast<size_t>(num_choices)) {
    return Error{ErrorCode::kInvalidValue, "events",
                 "events must have a prefix for each of the " + std::to_string(num_choices) +
                     " choices, got " + std::to_string(events->prefixes.size())};
  }
  return sampling.Validate(config.vocab_size);
}

}  // namespace mlc_server
