#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/host_memory.h"
#include "model/library_metadata.h"
#include "model/tensor_cache.h"

namespace mlc_server {

// A tensor as a pack function takes it: C-contiguous bytes of the library's source shape and dtype.
struct SourceTensor {
  const uint8_t* data = nullptr;
  const std::vector<int64_t>* shape = nullptr;
  DataType dtype = DataType::kFloat32;
};

// Runs the library's function `pack` over `sources`, writing `nbytes` bytes at `destination`.
using PackFn = std::function<Status(const std::string& pack, const std::vector<SourceTensor>&,
                                    uint8_t* destination, int64_t nbytes)>;

// Refuses (naming both values) a folder that lacks a tensor the library's entries are packed from
// or holds it in another shape or dtype. float32 sources may be stored as bfloat16.
Status CheckWeights(const LibraryMetadata& metadata, const TensorCache& cache);

// Packs every entry of the library into a new arena of metadata.arena_bytes. The pages of a shard
// are let go as soon as they are packed, so the peak is the arena plus about one tensor.
// `progress(done, total)` counts bytes of the folder's tensors; may be null.
Result<HostMemory> LoadWeights(const LibraryMetadata& metadata, const TensorCache& cache,
                               const PackFn& pack,
                               const std::function<void(int64_t, int64_t)>& progress);

}  // namespace mlc_server
