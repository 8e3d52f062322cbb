#include "model/library_metadata.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "model/field_reader.h"

namespace mlc_server {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxArenaBytes = int64_t{1} << 44;
constexpr int64_t kMaxBytesPerPage = int64_t{1} << 31;
constexpr int64_t kMaxDimension = int64_t{1} << 40;
constexpr int64_t kArenaAlignment = 64;
constexpr char kFormat[] = "mlc_server-model-library";

int32_t Int32(FieldReader* fields, const char* field) {
  return static_cast<int32_t>(fields->Int(field, 1, kMaxInt32));
}

// Reads a field that must hold exactly `expected`.
template <typename T>
void Require(FieldReader* fields, const char* field, const T& actual, const T& expected) {
  if (actual != expected) {
    if constexpr (std::is_same_v<T, std::string>) {
      fields->Refuse(field, "is \"" + actual + "\", this program needs \"" + expected + "\"");
    } else {
      fields->Refuse(field, "is " + std::to_string(actual) + ", this program needs " +
                                std::to_string(expected));
    }
  }
}

Status ParseKvLayout(const JsonValue& json, const std::string& library, LibraryMetadata* metadata) {
  FieldReader fields(json, library, "metadata.kv");
  Require(&fields, "dtype", fields.String("dtype"), std::string("float16"));
  Require(&fields, "page_size", fields.Int("page_size", 1, kMaxInt32), int64_t{kPageSize});
  metadata->kv_bytes_per_page = fields.Int("bytes_per_page", 1, kMaxBytesPerPage);
  // K and V of one page: [num_layers, num_kv_heads, 2, page_size * head_dim] float16.
  const auto expected = static_cast<__int128>(metadata->num_layers) * metadata->num_kv_heads * 2 *
                        kPageSize * metadata->head_dim * SizeOf(DataType::kFloat16);
  if (!fields.status() && expected != metadata->kv_bytes_per_page) {
    fields.Refuse("bytes_per_page", "is " + std::to_string(metadata->kv_bytes_per_page) + ", " +
                                        std::to_string(metadata->num_layers) + " layers of " +
                                        std::to_string(metadata->num_kv_heads) + " KV heads of " +
                                        std::to_string(metadata->head_dim) +
                                        " take another number of bytes");
  }
  return fields.status();
}

Status ParseLimits(const JsonValue& json, const std::string& library, LibraryMetadata* metadata) {
  FieldReader fields(json, library, "metadata.limits");
  metadata->max_rows = Int32(&fields, "max_rows");
  metadata->max_sequences = Int32(&fields, "max_sequences");
  metadata->max_logit_rows = Int32(&fields, "max_logit_rows");
  metadata->max_attention_items = Int32(&fields, "max_attention_items");
  return fields.status();
}

void ParseSources(FieldReader* fields, WeightEntry* entry) {
  const std::vector<std::string> names = fields->Strings("sources");
  const std::vector<std::string> dtypes = fields->Strings("source_dtypes");
  const JsonValue::Array& shapes = fields->Items("source_shapes");
  if (names.empty() || names.size() != dtypes.size() || names.size() != shapes.size()) {
    fields->Refuse("sources", "has " + std::to_string(names.size()) + " names, " +
                                  std::to_string(shapes.size()) + " shapes and " +
                                  std::to_string(dtypes.size()) + " dtypes");
    return;
  }
  for (size_t i = 0; i < names.size(); ++i) {
    WeightEntry::Source source;
    source.name = names[i];
    const std::optional<DataType> dtype = ParseDataType(dtypes[i]);
    if (!dtype) {
      fields->Refuse("source_dtypes", "holds \"" + dtypes[i] + "\", not supported");
      return;
    }
    source.dtype = *dtype;
    if (shapes[i].kind() != JsonValue::Kind::kArray) {
      fields->Refuse("source_shapes", "holds no array for " + names[i]);
      return;
    }
    for (const JsonValue& dimension : shapes[i].AsArray()) {
      if (dimension.kind() != JsonValue::Kind::kInt || dimension.AsInt() < 1 ||
          dimension.AsInt() > kMaxDimension) {
        fields->Refuse("source_shapes", "holds a bad dimension for " + names[i]);
        return;
      }
      source.shape.push_back(dimension.AsInt());
    }
    entry->sources.push_back(std::move(source));
  }
}

Status ParseWeights(const JsonValue& json, const std::string& library, LibraryMetadata* metadata) {
  FieldReader fields(json, library, "metadata.weights");
  metadata->arena_bytes = fields.Int("arena_bytes", 1, kMaxArenaBytes);
  Require(&fields, "alignment", fields.Int("alignment", 1, kMaxInt32), kArenaAlignment);
  const JsonValue::Array& items = fields.Items("entries");
  for (size_t i = 0; i < items.size() && !fields.status(); ++i) {
    const std::string where = fields.where() + ".entries[" + std::to_string(i) + "]";
    FieldReader item(items[i], library, where);
    WeightEntry entry;
    entry.name = item.String("name");
    entry.offset = item.Int("offset", 0, metadata->arena_bytes);
    entry.nbytes = item.Int("nbytes", 1, metadata->arena_bytes);
    entry.pack = item.String("pack");
    ParseSources(&item, &entry);
    if (!item.status() && (entry.nbytes > metadata->arena_bytes - entry.offset ||
                           entry.offset % kArenaAlignment != 0)) {
      item.Refuse("offset", "puts " + entry.name + " at " + std::to_string(entry.offset) + " + " +
                                std::to_string(entry.nbytes) + " in an arena of " +
                                std::to_string(metadata->arena_bytes) + " bytes aligned to " +
                                std::to_string(kArenaAlignment));
    }
    if (item.status()) {
      return item.status();
    }
    metadata->entries.push_back(std::move(entry));
  }
  std::vector<WeightEntry>& entries = metadata->entries;
  std::sort(entries.begin(), entries.end(),
            [](const WeightEntry& a, const WeightEntry& b) { return a.offset < b.offset; });
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i - 1].offset + entries[i - 1].nbytes > entries[i].offset) {
      fields.Refuse("entries", "overlap: " + entries[i - 1].name + " and " + entries[i].name);
    }
  }
  return fields.status();
}

// Compares one integer of the folder's configuration with the library's.
void Compare(FieldReader* config, const char* field, int32_t expected, const std::string& library) {
  if (!config->Has(field)) {
    return;
  }
  const int64_t actual = config->Int(field, 0, kMaxInt32);
  if (actual != expected) {
    config->Refuse(field, "is " + std::to_string(actual) + ", " + library + " was compiled for " +
                              std::to_string(expected));
  }
}

void Compare(FieldReader* config, const char* field, const std::string& expected,
             const std::string& library) {
  if (!config->Has(field)) {
    return;
  }
  const std::string actual = config->String(field);
  if (actual != expected) {
    config->Refuse(field,
                   "is \"" + actual + "\", " + library + " was compiled for \"" + expected + "\"");
  }
}

}  // namespace

Result<LibraryMetadata> ParseLibraryMetadata(std::string_view json, const std::string& library) {
  const Result<JsonValue> document = ParseJson(json, library);
  if (!document.ok()) {
    return document.error();
  }
  LibraryMetadata metadata;
  FieldReader fields(document.value(), library, "metadata");
  // The format and ABI come first: the other fields mean nothing under another one.
  Require(&fields, "format", fields.String("format"), std::string(kFormat));
  Require(&fields, "abi", fields.Int("abi", 0, kMaxInt32), kLibraryAbi);
  metadata.target = fields.String("target");
  metadata.feature_level = fields.String("feature_level");
  metadata.model_type = fields.String("model_type");
  metadata.quantization = fields.String("quantization");
  metadata.vocab_size = Int32(&fields, "vocab_size");
  metadata.hidden_size = Int32(&fields, "hidden_size");
  metadata.num_layers = Int32(&fields, "num_layers");
  metadata.num_q_heads = Int32(&fields, "num_q_heads");
  metadata.num_kv_heads = Int32(&fields, "num_kv_heads");
  metadata.head_dim = Int32(&fields, "head_dim");
  metadata.context_window_size = Int32(&fields, "context_window_size");
  const JsonValue& kv = fields.Member("kv");
  const JsonValue& limits = fields.Member("limits");
  const JsonValue& weights = fields.Member("weights");
  if (fields.status()) {
    return *fields.status();
  }
  if (Status status = ParseKvLayout(kv, library, &metadata)) {
    return *status;
  }
  if (Status status = ParseLimits(limits, library, &metadata)) {
    return *status;
  }
  if (Status status = ParseWeights(weights, library, &metadata)) {
    return *status;
  }
  return metadata;
}

Status CheckModelConfig(const LibraryMetadata& metadata, const JsonValue& chat_config,
                        const std::string& config_path, const std::string& library) {
  FieldReader config(chat_config, config_path, "");
  Compare(&config, "model_type", metadata.model_type, library);
  Compare(&config, "quantization", metadata.quantization, library);
  const JsonValue& model_config = config.Member("model_config");
  if (config.status()) {
    return config.status();
  }
  FieldReader model(model_config, config_path, "model_config");
  Compare(&model, "vocab_size", metadata.vocab_size, library);
  Compare(&model, "hidden_size", metadata.hidden_size, library);
  Compare(&model, "num_hidden_layers", metadata.num_layers, library);
  Compare(&model, "num_attention_heads", metadata.num_q_heads, library);
  Compare(&model, "num_key_value_heads", metadata.num_kv_heads, library);
  Compare(&model, "head_dim", metadata.head_dim, library);
  return model.status();
}

}  // namespace mlc_server
