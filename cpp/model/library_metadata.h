#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/data_type.h"
#include "model/json.h"

namespace mlc_server {

// The ABI of model libraries that this program runs.
inline constexpr int64_t kLibraryAbi = 1;
// Tokens of one KV page; fixed by the kernels' layout.
inline constexpr int32_t kPageSize = 16;

// One packed tensor of the weight arena and the tensors of the model folder it is made from.
struct WeightEntry {
  struct Source {
    std::string name;
    std::vector<int64_t> shape;
    DataType dtype = DataType::kFloat32;
  };
  std::string name;
  int64_t offset = 0;  // bytes into the arena, a multiple of the alignment
  int64_t nbytes = 0;
  std::string pack;  // the library's function that writes the entry
  std::vector<Source> sources;
};

// What a model library says of itself.
struct LibraryMetadata {
  std::string target;
  std::string feature_level;
  std::string model_type;
  std::string quantization;
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t num_layers = 0;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t context_window_size = 0;
  int64_t kv_bytes_per_page = 0;
  int32_t max_rows = 0;
  int32_t max_sequences = 0;
  int32_t max_logit_rows = 0;
  int32_t max_attention_items = 0;
  int64_t arena_bytes = 0;
  std::vector<WeightEntry> entries;  // by offset, not overlapping
};

// Parses the JSON of a library's metadata() and refuses (kIncompatible, naming both values) an ABI,
// KV layout or weight table that this program cannot run. `library` names the library in errors.
Result<LibraryMetadata> ParseLibraryMetadata(std::string_view json, const std::string& library);

// Refuses a model folder whose mlc-chat-config.json describes another model than the library.
// Keys that the configuration does not carry are not compared.
Status CheckModelConfig(const LibraryMetadata& metadata, const JsonValue& chat_config,
                        const std::string& config_path, const std::string& library);

}  // namespace mlc_server
