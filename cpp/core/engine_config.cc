#include "core/engine_config.h"

#include <algorithm>
#include <string>

#include "core/limits.h"
#include "core/validation.h"

namespace mlc_server {

Status EngineConfig::Validate() const {
  if (Status status = FirstError({
          CheckIntRange("max_batch_size", max_batch_size, 1, kMaxBatchSize),
          CheckIntRange("prefill_chunk_size", prefill_chunk_size, 1, kMaxPrefillChunkSize),
          CheckIntRange("max_sequence_length", max_sequence_length, 2, kMaxSequenceLength),
          CheckIntRange("page_size", page_size, 1, kMaxPageSize),
          CheckIntRange("num_pages", num_pages, 1, kMaxPages),
          CheckIntRange("max_queue_size", max_queue_size, 1, kMaxQueueSize),
          CheckIntRange("max_choices", max_choices, 1, kMaxChoicesPerRequest),
          CheckIntRange("vocab_size", vocab_size, 1, kMaxVocabSize),
          CheckIntRange("draft_tokens_max", draft_tokens_max, 1, kMaxDraftTokens),
          CheckIntRange("ngram_min", ngram_min, 1, kMaxNgram),
          CheckIntRange("ngram_max", ngram_max, ngram_min, kMaxNgram),
          CheckIntRange("speculative_rows_max", speculative_rows_max, 1, kMaxSpeculativeRows),
          CheckIntRange("scored_rows_max", scored_rows_max, 1, kMaxScoredRows),
          CheckCount("eos_token_ids", eos_token_ids.size(), kMaxEosTokenIds),
      })) {
    return status;
  }
  // Kernels address slots, page * page_size + offset, with int32.
  const int64_t num_slots = int64_t{num_pages} * page_size;
  if (num_slots > INT32_MAX) {
    return Error{ErrorCode::kInvalidValue, "num_pages",
                 "num_pages * page_size must be at most " + std::to_string(INT32_MAX) + ", got " +
                     std::to_string(num_pages) + " * " + std::to_string(page_size)};
  }
  if (num_slots < 2) {
    return Error{ErrorCode::kInvalidValue, "num_pages",
                 "num_pages * page_size must be at least 2, got " + std::to_string(num_slots)};
  }
  return CheckTokenIds("eos_token_ids", eos_token_ids, vocab_size);
}

int32_t EngineConfig::MaxTokensPerSequence() const {
  return static_cast<int32_t>(
      std::min<int64_t>(max_sequence_length, int64_t{num_pages} * page_size));
}

}  // namespace mlc_server
