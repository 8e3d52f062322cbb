#include "core/sampling_params.h"

#include "core/limits.h"
#include "core/validation.h"

namespace mlc_server {

namespace {

Status ValidateLogitBias(const std::vector<std::pair<int32_t, float>>& logit_bias,
                         int32_t vocab_size) {
  if (Status status = CheckCount("logit_bias", logit_bias.size(), kMaxLogitBiasEntries)) {
    return status;
  }
  for (const auto& [token_id, bias] : logit_bias) {
    if (Status status = FirstError({
            CheckTokenId("logit_bias", token_id, vocab_size),
            CheckRange("logit_bias", bias, -kMaxAbsLogitBias, kMaxAbsLogitBias),
        })) {
      return status;
    }
  }
  return std::nullopt;
}

Status ValidateStop(const std::vector<std::string>& stop) {
  if (Status status = CheckCount("stop", stop.size(), kMaxStopStrings)) {
    return status;
  }
  for (const std::string& text : stop) {
    if (text.empty() || text.size() > kMaxStopBytes) {
      return Error{ErrorCode::kInvalidValue, "stop",
                   "stop strings must have 1 to " + std::to_string(kMaxStopBytes) +
                       " bytes, got one of " + std::to_string(text.size())};
    }
  }
  return std::nullopt;
}

Status ValidateLengths(int32_t max_tokens, int32_t min_tokens) {
  constexpr int64_t kNoLimit = INT32_MAX;
  if (max_tokens != -1) {
    if (Status status = CheckIntRange("max_tokens", max_tokens, 0, kNoLimit)) {
      return status;
    }
  }
  return CheckIntRange("min_tokens", min_tokens, 0, max_tokens == -1 ? kNoLimit : max_tokens);
}

}  // namespace

Status SamplingParams::Validate(int32_t vocab_size) const {
  if (Status status = FirstError({
          CheckRange("temperature", temperature, 0.0, 2.0),
          CheckRangeAbove("top_p", top_p, 0.0, 1.0),
          CheckIntRange("top_k", top_k, 0, INT32_MAX),
          CheckRange("min_p", min_p, 0.0, 1.0),
          CheckRangeAbove("repetition_penalty", repetition_penalty, 0.0, 2.0),
          CheckRange("presence_penalty", presence_penalty, -2.0, 2.0),
          CheckRange("frequency_penalty", frequency_penalty, -2.0, 2.0),
          CheckIntRange("top_logprobs", top_logprobs, -1, kMaxTopLogprobs),
          CheckIntRange("prompt_logprobs", prompt_logprobs, -1, kMaxTopLogprobs),
          CheckCount("stop_token_ids", stop_token_ids.size(), kMaxStopTokenIds),
      })) {
    return status;
  }
  if (Status status = CheckTokenIds("stop_token_ids", stop_token_ids, vocab_size)) {
    return status;
  }
  if (Status status = ValidateLengths(max_tokens, min_tokens)) {
    return status;
  }
  if (Status status = ValidateLogitBias(logit_bias, vocab_size)) {
    return status;
  }
  return ValidateStop(stop);
}

}  // namespace mlc_server
