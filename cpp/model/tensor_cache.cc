#include "model/tensor_cache.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "model/field_reader.h"
#include "model/json.h"

namespace mlc_server {
namespace {

constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxDimension = int64_t{1} << 40;
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxShards = 65536;  // also bounds the number of mappings

std::string Show(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    out += (axis == 0 ? "" : ", ") + std::to_string(shape[axis]);
  }
  return out + "]";
}

// The product of the dimensions, or -1 when it does not fit.
int64_t NumElements(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t dimension : shape) {
    if (__builtin_mul_overflow(product, dimension, &product)) {
      return -1;
    }
  }
  return product;
}

// Shards lie beside the index: a path with folders could name any file of the machine.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

// Fills dtype, stored_dtype and num_elements from the record's fields and checks nbytes by them.
void CheckSize(const std::string& dtype_name, const std::string& format, FieldReader* fields,
               TensorRecord* record) {
  const std::optional<DataType> dtype = ParseDataType(dtype_name);
  if (!dtype) {
    fields->Refuse("dtype", "of " + record->name + " is \"" + dtype_name + "\", not supported");
    return;
  }
  if (format != "raw" && format != "f32-to-bf16") {
    fields->Refuse("format", "of " + record->name + " is \"" + format +
                                 "\", expected \"raw\" or \"f32-to-bf16\"");
    return;
  }
  record->dtype = *dtype;
  // The format is written on every record and means something for float32 only.
  const bool narrowed = *dtype == DataType::kFloat32 && format == "f32-to-bf16";
  record->stored_dtype = narrowed ? DataType::kBfloat16 : *dtype;
  record->num_elements = NumElements(record->shape);
  int64_t expected = 0;
  if (record->shape.size() > kMaxRank || record->num_elements < 0 ||
      __builtin_mul_overflow(record->num_elements, SizeOf(record->stored_dtype), &expected)) {
    fields->Refuse("shape", "of " + record->name + " is too large: " + Show(record->shape));
  } else if (record->nbytes != expected) {
    fields->Refuse("nbytes", "of " + record->name + " is " + std::to_string(record->nbytes) +
                                 ", shape " + Show(record->shape) + " of " +
                                 NameOf(record->stored_dtype) + " takes " +
                                 std::to_string(expected));
  }
}

Status ParseRecord(const JsonValue& json, const std::string& source, const std::string& where,
                   int64_t shard_bytes, TensorRecord* record) {
  FieldReader fields(json, source, where);
  record->name = fields.String("name");
  record->shape = fields.Ints("shape", 1, kMaxDimension);
  record->byte_offset = fields.Int("byteOffset", 0, kMaxBytes);
  record->nbytes = fields.Int("nbytes", 0, kMaxBytes);
  const std::string dtype = fields.String("dtype");
  const std::string format = fields.String("format");
  if (fields.status()) {
    return fields.status();
  }
  CheckSize(dtype, format, &fields, record);
  if (record->byte_offset > shard_bytes || record->nbytes > shard_bytes - record->byte_offset) {
    fields.Refuse("byteOffset", "of " + record->name + " puts it at bytes " +
                                    std::to_string(record->byte_offset) + " to " +
                                    std::to_string(record->byte_offset) + " + " +
                                    std::to_string(record->nbytes) + " of a shard of " +
                                    std::to_string(shard_bytes));
  }
  return fields.status();
}

Status CheckOverlap(std::vector<const TensorRecord*> records, const std::string& source,
                    const std::string& shard_name) {
  std::sort(records.begin(), records.end(), [](const TensorRecord* a, const TensorRecord* b) {
    return a->byte_offset < b->byte_offset;
  });
  for (size_t i = 1; i < records.size(); ++i) {
    const TensorRecord& before = *records[i - 1];
    if (before.byte_offset + before.nbytes > records[i]->byte_offset) {
      return Error{
          ErrorCode::kIncompatible, source,
          source + ": " + before.name + " and " + records[i]->name + " overlap in " + shard_name};
    }
  }
  return std::nullopt;
}

// Maps one shard and appends its records to `tensors`.
Status ParseShard(const JsonValue& json, const std::string& folder, const std::string& source,
                  size_t index, std::vector<MappedFile>* shards,
                  std::unordered_map<std::string, TensorRecord>* tensors) {
  const std::string where = "records[" + std::to_string(index) + "]";
  FieldReader fields(json, source, where);
  const std::string name = fields.String("dataPath");
  const int64_t nbytes = fields.Int("nbytes", 0, kMaxBytes);
  const JsonValue::Array& items = fields.Items("records");
  if (!fields.status() && !IsPlainFileName(name)) {
    fields.Refuse("dataPath", "is \"" + name + "\", expected the name of a file in the folder");
  }
  if (fields.status()) {
    return fields.status();
  }
  Result<MappedFile> file = MappedFile::Open(folder + "/" + name);
  if (!file.ok()) {
    return file.error();
  }
  if (file.value().size() != nbytes) {
    return Error{ErrorCode::kIncompatible, folder + "/" + name,
                 folder + "/" + name + " has " + std::to_string(file.value().size()) +
                     " bytes, the index says " + std::to_string(nbytes)};
  }
  shards->push_back(std::move(file).value());
  std::vector<const TensorRecord*> records;
  for (size_t i = 0; i < items.size(); ++i) {
    TensorRecord record;
    record.shard = static_cast<int32_t>(index);
    const std::string record_where = where + ".records[" + std::to_string(i) + "]";
    if (Status status = ParseRecord(items[i], source, record_where, nbytes, &record)) {
      return status;
    }
    const std::string key = record.name;
    const auto [slot, inserted] = tensors->emplace(key, std::move(record));
    if (!inserted) {
      return Error{ErrorCode::kIncompatible, source,
                   source + ": " + record_where + ".name is a second \"" + key + "\""};
    }
    records.push_back(&slot->second);
  }
  return CheckOverlap(std::move(records), source, name);
}

}  // namespace

Result<TensorCache> TensorCache::Open(const std::string& folder) {
  TensorCache cache;
  cache.index_path_ = folder + "/tensor-cache.json";
  Result<JsonValue> index = ReadJsonFile(cache.index_path_);
  if (!index.ok() && index.error().code == ErrorCode::kNotFound) {
    const std::string older = folder + "/ndarray-cache.json";
    Result<JsonValue> older_index = ReadJsonFile(older);
    if (older_index.ok() || older_index.error().code != ErrorCode::kNotFound) {
      cache.index_path_ = older;
      index = std::move(older_index);
    }
  }
  if (!index.ok()) {
    return index.error();
  }
  FieldReader fields(index.value(), cache.index_path_, "");
  const JsonValue::Array& shards = fields.Items("records");
  if (!fields.status() && shards.size() > kMaxShards) {
    fields.Refuse("records", "names " + std::to_string(shards.size()) + " shards, at most " +
                                 std::to_string(kMaxShards) + " are read");
  }
  if (fields.status()) {
    return *fields.status();
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    if (Status status =
            ParseShard(shards[i], folder, cache.index_path_, i, &cache.shards_, &cache.tensors_)) {
      return *status;
    }
  }
  return cache;
}

const TensorRecord* TensorCache::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace mlc_server
