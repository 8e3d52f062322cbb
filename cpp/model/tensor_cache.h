#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "model/data_type.h"
#include "model/host_memory.h"

namespace mlc_server {

// One tensor of a model folder: raw, little-endian, C-contiguous bytes inside a shard.
struct TensorRecord {
  std::string name;
  std::vector<int64_t> shape;
  DataType dtype = DataType::kFloat32;         // what the tensor is
  DataType stored_dtype = DataType::kFloat32;  // what its bytes are; kBfloat16 when narrowed
  int32_t shard = 0;                           // index into TensorCache::shards()
  int64_t byte_offset = 0;
  int64_t nbytes = 0;  // num_elements * SizeOf(stored_dtype)
  int64_t num_elements = 0;
};

// The weights of a model folder in MLC's format: the index tensor-cache.json (ndarray-cache.json in
// older folders) and its shards, mapped read-only.
class TensorCache {
 public:
  // Reads and checks the index and maps the shards. Everything the index says is held against the
  // files: a record lies inside its shard, has the size of its shape and dtype, and overlaps no
  // other. Contents are not read and md5 sums not checked.
  static Result<TensorCache> Open(const std::string& folder);

  // nullptr when there is no tensor of that name.
  const TensorRecord* Find(const std::string& name) const;
  const std::vector<MappedFile>& shards() const { return shards_; }
  int64_t num_tensors() const { return static_cast<int64_t>(tensors_.size()); }
  const std::string& index_path() const { return index_path_; }

 private:
  std::string index_path_;
  std::vector<MappedFile> shards_;
  std::unordered_map<std::string, TensorRecord> tensors_;
};

}  // namespace mlc_server
