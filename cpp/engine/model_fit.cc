#include "engine/model_fit.h"

#include <string>

namespace mlc_server {
namespace {

Status CheckFits(const char* param, int64_t value, const char* of_model, int64_t limit) {
  if (value > limit) {
    return Error{ErrorCode::kIncompatible, param,
                 "must be at most the model's " + std::string(of_model) + ", " +
                     std::to_string(limit) + ", got " + std::to_string(value)};
  }
  return std::nullopt;
}

Status CheckEqual(const char* param, int64_t value, int64_t of_model) {
  if (value != of_model) {
    return Error{ErrorCode::kIncompatible, param,
                 "the model's is " + std::to_string(of_model) + ", got " + std::to_string(value)};
  }
  return std::nullopt;
}

}  // namespace

Status CheckAgainstModel(const EngineConfig& config, const ModelInfo& info) {
  const bool speculates = config.speculative_mode != SpeculativeMode::kDisable;
  for (const Status& status : {
           CheckEqual("vocab_size", config.vocab_size, info.vocab_size),
           CheckEqual("page_size", config.page_size, info.page_size),
           CheckFits("max_batch_size", config.max_batch_size, "logit rows", info.max_logit_rows),
           CheckFits("max_batch_size", config.max_batch_size, "rows", info.max_rows),
           CheckFits("speculative_rows_max", speculates ? config.speculative_rows_max : 0,
                     "logit rows", info.max_logit_rows),
           CheckFits("scored_rows_max", config.scored_rows_max, "logit rows less max_batch_size",
                     int64_t{info.max_logit_rows} - config.max_batch_size),
           CheckFits("prefill_chunk_size", config.prefill_chunk_size, "rows", info.max_rows),
           CheckFits("max_sequence_length", config.max_sequence_length, "context window",
                     info.context_window),
       }) {
    if (status) {
      return status;
    }
  }
  return std::nullopt;
}

}  // namespace mlc_server
