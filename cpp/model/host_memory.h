#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/result.h"

namespace mlc_server {

// Bytes that can be taken without swapping: the smaller of the machine's MemAvailable and what the
// control group (v2) of this process still allows. `proc` and `cgroup` are the mount points.
// Returns a negative number when neither says.
int64_t AvailableMemoryBytes(const std::string& proc = "/proc",
                             const std::string& cgroup = "/sys/fs/cgroup");

// Anonymous zeroed memory, aligned to huge pages and advised to use them. Physical memory is taken
// when a page is first touched.
class HostMemory {
 public:
  static constexpr int64_t kAlignment = int64_t{2} << 20;  // bytes; the huge page of x86 and ARM

  HostMemory() = default;
  ~HostMemory();
  HostMemory(HostMemory&& other) noexcept { *this = std::move(other); }
  HostMemory& operator=(HostMemory&& other) noexcept;

  // Refused with kResourceExhausted, naming both numbers, when `bytes` (>= 0) is more than
  // AvailableMemoryBytes(). `purpose` and `param` explain the refusal.
  static Result<HostMemory> Allocate(int64_t bytes, const std::string& purpose,
                                     const std::string& param);

  uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  void* mapping_ = nullptr;
  int64_t mapping_bytes_ = 0;
  uint8_t* data_ = nullptr;
  int64_t size_ = 0;
};

// A file mapped read-only. The file must not shrink while it is mapped.
class MappedFile {
 public:
  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;

  static Result<MappedFile> Open(const std::string& path);

  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }
  // Asks the kernel to read [offset, offset + bytes) ahead. The range lies inside the file.
  void Prefetch(int64_t offset, int64_t bytes) const;
  // Lets go of the whole pages inside the range; reading them again reads the file again.
  void Drop(int64_t offset, int64_t bytes) const;

 private:
  uint8_t* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace mlc_server
