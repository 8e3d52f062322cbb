#pragma once

#include <cstddef>
#include <cstdint>

// Bounds that no configuration changes. Those a client can run into are also in
// python/mlc_server/limits.py, which refuses them first, with the client's own field names.

namespace mlc_server {

// One request.
constexpr size_t kMaxLogitBiasEntries = 1024;
constexpr float kMaxAbsLogitBias = 100.0f;
constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxStopTokenIds = 256;
constexpr int32_t kMaxTopLogprobs = 20;

// The engine's configuration: generous, so that a typing error fails at start-up and not as an
// allocation of terabytes.
constexpr int32_t kMaxBatchSize = 4096;
constexpr int32_t kMaxPrefillChunkSize = 1 << 16;
constexpr int32_t kMaxSequenceLength = 1 << 24;
constexpr int32_t kMaxPageSize = 1024;
constexpr int32_t kMaxPages = 1 << 24;
constexpr int32_t kMaxQueueSize = 1 << 20;
constexpr int32_t kMaxChoicesPerRequest = 1024;
constexpr int32_t kMaxVocabSize = 1 << 24;
constexpr int32_t kMaxDraftTokens = 16;
constexpr int32_t kMaxNgram = 16;
constexpr int32_t kMaxSpeculativeRows = 64;
constexpr int32_t kMaxScoredRows = 4096;
constexpr size_t kMaxEosTokenIds = 256;

}  // namespace mlc_server
