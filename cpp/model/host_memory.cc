#include "model/host_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>

namespace mlc_server {
namespace {

int64_t PageSize() {
  static const int64_t page_size = sysconf(_SC_PAGESIZE);
  return page_size;
}

// The number after `key` in a file of "key number" lines; -1 when there is none.
int64_t ReadKeyedNumber(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string word;
    int64_t number = 0;
    if (words >> word && word == key && words >> number) {
      return number;
    }
  }
  return -1;
}

// The number that is a file's content; -1 when it is missing or not a number ("max").
int64_t ReadNumber(const std::string& path) {
  std::ifstream file(path);
  int64_t number = 0;
  return file >> number ? number : -1;
}

// The path of this process in the v2 hierarchy, "/" when it cannot be told.
std::string OwnCgroup(const std::string& proc) {
  std::ifstream file(proc + "/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("0::", 0) == 0) {
      return line.substr(3);
    }
  }
  return "/";
}

// What one group still allows, page cache counted as free; max() when it sets no limit.
int64_t GroupAllowance(const std::string& folder) {
  const int64_t limit = ReadNumber(folder + "/memory.max");
  const int64_t used = ReadNumber(folder + "/memory.current");
  if (limit < 0 || used < 0) {
    return std::numeric_limits<int64_t>::max();
  }
  const int64_t cache =
      std::max<int64_t>(0, ReadKeyedNumber(folder + "/memory.stat", "inactive_file"));
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used - cache));
}

Error SystemError(const std::string& what, const std::string& path) {
  const int number = errno;
  const ErrorCode code = number == ENOMEM ? ErrorCode::kResourceExhausted : ErrorCode::kNotFound;
  return Error{code, path, what + " " + path + ": " + std::strerror(number)};
}

}  // namespace

int64_t AvailableMemoryBytes(const std::string& proc, const std::string& cgroup) {
  int64_t available = std::numeric_limits<int64_t>::max();
  const int64_t kib = ReadKeyedNumber(proc + "/meminfo", "MemAvailable:");
  if (kib >= 0) {
    available = kib * 1024;
  }
  // Every group up to the root limits this process.
  std::string group = OwnCgroup(proc);
  while (true) {
    available = std::min(available, GroupAllowance(cgroup + group));
    const size_t slash = group.find_last_of('/');
    if (group.size() <= 1 || slash == std::string::npos) {
      break;
    }
    group = slash == 0 ? "/" : group.substr(0, slash);
  }
  return available == std::numeric_limits<int64_t>::max() ? -1 : available;
}

HostMemory::~HostMemory() {
  if (mapping_ != nullptr) {
    munmap(mapping_, static_cast<size_t>(mapping_bytes_));
  }
}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Result<HostMemory> HostMemory::Allocate(int64_t bytes, const std::string& purpose,
                                        const std::string& param) {
  MLC_CHECK(bytes >= 0) << "allocation of " << bytes << " bytes";
  const int64_t available = AvailableMemoryBytes();
  if (available >= 0 && bytes > available) {
    return Error{ErrorCode::kResourceExhausted, param,
                 purpose + " needs " + std::to_string(bytes) + " bytes of memory, " +
                     std::to_string(available) + " are available"};
  }
  HostMemory memory;
  const int64_t mapping_bytes = bytes + kAlignment;
  void* mapping = mmap(nullptr, static_cast<size_t>(mapping_bytes), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    return Error{
        ErrorCode::kResourceExhausted, param,
        purpose + " needs " + std::to_string(bytes) + " bytes of memory: " + std::strerror(errno)};
  }
  memory.mapping_ = mapping;
  memory.mapping_bytes_ = mapping_bytes;
  const auto address = reinterpret_cast<uintptr_t>(mapping);
  const uintptr_t aligned = (address + kAlignment - 1) / kAlignment * kAlignment;
  memory.data_ = static_cast<uint8_t*>(mapping) + (aligned - address);
  memory.size_ = bytes;
  // Advice only: without huge pages the memory works, with more TLB misses.
  madvise(memory.data_, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return memory;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    munmap(data_, static_cast<size_t>(size_));
  }
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Result<MappedFile> MappedFile::Open(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return SystemError("cannot open", path);
  }
  struct stat status = {};
  if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(descriptor);
    return Error{ErrorCode::kNotFound, path, path + " is not a regular file"};
  }
  MappedFile file;
  if (status.st_size > 0) {
    void* data =
        mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) {
      Error error = SystemError("cannot map", path);
      close(descriptor);
      return error;
    }
    file.data_ = static_cast<uint8_t*>(data);
    file.size_ = status.st_size;
  }
  close(descriptor);
  return file;
}

void MappedFile::Prefetch(int64_t offset, int64_t bytes) const {
  MLC_CHECK(offset >= 0 && bytes >= 0 && bytes <= size_ - offset);
  const int64_t first = offset / PageSize() * PageSize();
  if (bytes > 0) {
    madvise(data_ + first, static_cast<size_t>(offset + bytes - first), MADV_WILLNEED);
  }
}

void MappedFile::Drop(int64_t offset, int64_t bytes) const {
  MLC_CHECK(offset >= 0 && bytes >= 0 && bytes <= size_ - offset);
  const int64_t first = (offset + PageSize() - 1) / PageSize() * PageSize();
  const int64_t last = (offset + bytes) / PageSize() * PageSize();
  if (last > first) {
    madvise(data_ + first, static_cast<size_t>(last - first), MADV_DONTNEED);
  }
}

}  // namespace mlc_server
