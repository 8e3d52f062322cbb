#include "model/weight_loader.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

namespace mlc_server {
namespace {

std::string Show(DataType dtype, const std::vector<int64_t>& shape) {
  std::string out = std::string(NameOf(dtype)) + " [";
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    out += (axis == 0 ? "" : ", ") + std::to_string(shape[axis]);
  }
  return out + "]";
}

bool Fits(const WeightEntry::Source& source, const TensorRecord& record) {
  const bool widened = source.dtype == DataType::kFloat32 && record.dtype == DataType::kBfloat16;
  return source.shape == record.shape && (source.dtype == record.dtype || widened);
}

bool IsWidened(const WeightEntry::Source& source, const TensorRecord& record) {
  return source.dtype == DataType::kFloat32 && record.stored_dtype == DataType::kBfloat16;
}

const TensorRecord& Record(const TensorCache& cache, const WeightEntry::Source& source) {
  const TensorRecord* record = cache.Find(source.name);
  MLC_CHECK(record != nullptr) << source.name << " went unchecked";
  return *record;
}

// Kernels read whole vectors; shards align nothing.
constexpr size_t kSourceAlignment = 64;

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using AlignedBuffer = std::unique_ptr<uint8_t, FreeDeleter>;

AlignedBuffer AllocateAligned(int64_t bytes) {
  const size_t rounded =
      (static_cast<size_t>(bytes) + kSourceAlignment - 1) / kSourceAlignment * kSourceAlignment;
  AlignedBuffer buffer(static_cast<uint8_t*>(std::aligned_alloc(kSourceAlignment, rounded)));
  if (buffer == nullptr) {
    throw std::bad_alloc();
  }
  return buffer;
}

// float32 from bfloat16, which is its upper half.
AlignedBuffer WidenBfloat16(const uint8_t* data, int64_t num_elements) {
  AlignedBuffer widened = AllocateAligned(num_elements * 4);
  for (int64_t i = 0; i < num_elements; ++i) {
    uint16_t half = 0;
    std::memcpy(&half, data + 2 * i, sizeof(half));
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    std::memcpy(widened.get() + 4 * i, &bits, sizeof(bits));
  }
  return widened;
}

// The sources of one entry as its pack function takes them: in the shard where they can be read in
// place, else in memory of their own.
class EntrySources {
 public:
  EntrySources(const WeightEntry& entry, const TensorCache& cache) {
    for (const WeightEntry::Source& source : entry.sources) {
      const TensorRecord& record = Record(cache, source);
      const uint8_t* data =
          cache.shards()[static_cast<size_t>(record.shard)].data() + record.byte_offset;
      if (IsWidened(source, record)) {
        data = Own(WidenBfloat16(data, record.num_elements));
      } else if (reinterpret_cast<uintptr_t>(data) % kSourceAlignment != 0) {
        AlignedBuffer copy = AllocateAligned(record.nbytes);
        std::memcpy(copy.get(), data, static_cast<size_t>(record.nbytes));
        data = Own(std::move(copy));
      }
      tensors_.push_back(SourceTensor{data, &source.shape, source.dtype});
    }
  }
  const std::vector<SourceTensor>& tensors() const { return tensors_; }

 private:
  const uint8_t* Own(AlignedBuffer buffer) {
    buffers_.push_back(std::move(buffer));
    return buffers_.back().get();
  }
  std::vector<AlignedBuffer> buffers_;
  std::vector<SourceTensor> tensors_;
};

// Calls visit(shard, record) for every source of an entry.
template <typename Visit>
void ForEachSource(const WeightEntry& entry, const TensorCache& cache, const Visit& visit) {
  for (const WeightEntry::Source& source : entry.sources) {
    const TensorRecord& record = Record(cache, source);
    visit(cache.shards()[static_cast<size_t>(record.shard)], record);
  }
}

}  // namespace

Status CheckWeights(const LibraryMetadata& metadata, const TensorCache& cache) {
  for (const WeightEntry& entry : metadata.entries) {
    for (const WeightEntry::Source& source : entry.sources) {
      const TensorRecord* record = cache.Find(source.name);
      if (record == nullptr) {
        return Error{ErrorCode::kIncompatible, cache.index_path(),
                     cache.index_path() + ": has no tensor " + source.name +
                         ", which the model library needs as " + Show(source.dtype, source.shape)};
      }
      if (!Fits(source, *record)) {
        return Error{ErrorCode::kIncompatible, cache.index_path(),
                     cache.index_path() + ": " + source.name + " is " +
                         Show(record->dtype, record->shape) + ", the model library needs " +
                         Show(source.dtype, source.shape)};
      }
    }
  }
  return std::nullopt;
}

Result<HostMemory> LoadWeights(const LibraryMetadata& metadata, const TensorCache& cache,
                               const PackFn& pack,
                               const std::function<void(int64_t, int64_t)>& progress) {
  if (Status status = CheckWeights(metadata, cache)) {
    return *status;
  }
  int64_t total_bytes = 0;
  for (const WeightEntry& entry : metadata.entries) {
    ForEachSource(entry, cache, [&](const MappedFile&, const TensorRecord& record) {
      total_bytes += record.nbytes;
    });
  }
  Result<HostMemory> arena =
      HostMemory::Allocate(metadata.arena_bytes, "the model's weights", "model");
  if (!arena.ok()) {
    return arena;
  }
  int64_t done_bytes = 0;
  for (size_t i = 0; i < metadata.entries.size(); ++i) {
    const WeightEntry& entry = metadata.entries[i];
    if (i + 1 < metadata.entries.size()) {
      ForEachSource(metadata.entries[i + 1], cache,
                    [](const MappedFile& shard, const TensorRecord& record) {
                      shard.Prefetch(record.byte_offset, record.nbytes);
                    });
    }
    const EntrySources sources(entry, cache);
    uint8_t* destination = arena.value().data() + entry.offset;
    if (Status status = pack(entry.pack, sources.tensors(), destination, entry.nbytes)) {
      return *status;
    }
    ForEachSource(entry, cache, [&](const MappedFile& shard, const TensorRecord& record) {
      shard.Drop(record.byte_offset, record.nbytes);
      done_bytes += record.nbytes;
    });
    if (progress) {
      progress(done_bytes, total_bytes);
    }
  }
  return arena;
}

}  // namespace mlc_server
