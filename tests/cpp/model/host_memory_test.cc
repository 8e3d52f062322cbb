#include "model/host_memory.h"

#include <cstdint>
#include <string>
#include <utility>

#include "support/cpp_test.h"
#include "test_folder.h"

namespace mlc_server {
namespace {

using testing::TestFolder;

TEST(HostMemoryIsZeroedAlignedAndWritable) {
  Result<HostMemory> result = HostMemory::Allocate(5000000, "a test", "bytes");
  EXPECT_TRUE(result.ok());
  const HostMemory memory = std::move(result).value();
  EXPECT_EQ(memory.size(), 5000000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % HostMemory::kAlignment, uintptr_t{0});
  for (const int64_t at : {int64_t{0}, int64_t{2500000}, int64_t{4999999}}) {
    EXPECT_EQ(static_cast<int>(memory.data()[at]), 0);
    memory.data()[at] = 1;
  }
}

TEST(HostMemoryRefusesMoreThanThereIsNamingBoth) {
  const int64_t asked = int64_t{1} << 50;
  const Result<HostMemory> result = HostMemory::Allocate(asked, "the KV cache", "num_pages");
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(result.error().param, std::string("num_pages"));
  const std::string& message = result.error().message;
  EXPECT_TRUE(message.find("the KV cache needs " + std::to_string(asked)) == 0);
  EXPECT_TRUE(message.find("are available") != std::string::npos);
}

TEST(AvailableMemoryIsTheMachinesOrTheTightestGroups) {
  const TestFolder proc;
  const TestFolder cgroup;
  EXPECT_EQ(AvailableMemoryBytes(proc.path(), cgroup.path()), -1);
  proc.Write("meminfo", "MemTotal: 900 kB\nMemAvailable:     500 kB\n");
  EXPECT_EQ(AvailableMemoryBytes(proc.path(), cgroup.path()), 500 * 1024);

  std::filesystem::create_directories(proc.path() + "/self");
  std::filesystem::create_directories(cgroup.path() + "/outer/inner");
  proc.Write("self/cgroup", "0::/outer/inner\n");
  cgroup.Write("outer/inner/memory.max", "max\n");
  cgroup.Write("outer/inner/memory.current", "1000\n");
  EXPECT_EQ(AvailableMemoryBytes(proc.path(), cgroup.path()), 500 * 1024);
  cgroup.Write("outer/memory.max", "100000\n");
  cgroup.Write("outer/memory.current", "60000\n");
  EXPECT_EQ(AvailableMemoryBytes(proc.path(), cgroup.path()), 40000);
  // Page cache of files is given back on demand.
  cgroup.Write("outer/memory.stat", "anon 5\ninactive_file 20000\n");
  EXPECT_EQ(AvailableMemoryBytes(proc.path(), cgroup.path()), 60000);
  cgroup.Write("outer/inner/memory.max", "1000\n");
  EXPECT_EQ(AvailableMemoryBytes(proc.path(), cgroup.path()), 0);
}

}  // namespace
}  // namespace mlc_server
