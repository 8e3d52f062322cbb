#include "model/weight_loader.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "support/cpp_test.h"
#include "test_folder.h"

namespace mlc_server {
namespace {

using testing::TestFolder;

// `a`: 3 float32 kept as bfloat16 (6 bytes); `b`: 5 int8 at an odd offset.
constexpr char kIndex[] = R"({"records": [
  {"dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": 12, "records": [
    {"name": "a", "shape": [3], "dtype": "float32", "format": "f32-to-bf16", "nbytes": 6,
     "byteOffset": 0},
    {"name": "b", "shape": [5], "dtype": "int8", "format": "raw", "nbytes": 5,
     "byteOffset": 7}]}]})";

struct Fixture {
  Fixture() {
    folder.Write("tensor-cache.json", kIndex);
    // bfloat16 1.0, -2.0, 0.5, a gap of one byte, then 1..5.
    folder.Write("params_shard_0.bin",
                 std::string("\x80\x3f\x00\xc0\x00\x3f?\x01\x02\x03\x04\x05", 12));
    metadata.arena_bytes = 256;
    metadata.entries = {
        Entry("first", 0, 12, {{"a", {3}, DataType::kFloat32}}),
        Entry("second", 128, 17, {{"b", {5}, DataType::kInt8}, {"a", {3}, DataType::kFloat32}})};
  }
  static WeightEntry Entry(const std::string& name, int64_t offset, int64_t nbytes,
                           std::vector<WeightEntry::Source> sources) {
    WeightEntry entry;
    entry.name = name;
    entry.offset = offset;
    entry.nbytes = nbytes;
    entry.pack = "pack_" + name;
    entry.sources = std::move(sources);
    return entry;
  }
  TensorCache Cache() const {
    Result<TensorCache> cache = TensorCache::Open(folder.path());
    EXPECT_TRUE(cache.ok());
    return std::move(cache).value();
  }
  TestFolder folder;
  LibraryMetadata metadata;
};

// Concatenates the sources.
Status Concatenate(const std::string&, const std::vector<SourceTensor>& sources,
                   uint8_t* destination, int64_t nbytes) {
  int64_t at = 0;
  for (const SourceTensor& source : sources) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(source.data) % 64, uintptr_t{0});
    int64_t bytes = SizeOf(source.dtype);
    for (const int64_t dimension : *source.shape) {
      bytes *= dimension;
    }
    std::memcpy(destination + at, source.data, static_cast<size_t>(bytes));
    at += bytes;
  }
  EXPECT_EQ(at, nbytes);
  return std::nullopt;
}

TEST(LoadWeightsPacksEveryEntryInPlace) {
  const Fixture fixture;
  const TensorCache cache = fixture.Cache();
  std::vector<std::pair<int64_t, int64_t>> progress;
  const Result<HostMemory> arena =
      LoadWeights(fixture.metadata, cache, Concatenate,
                  [&](int64_t done, int64_t total) { progress.emplace_back(done, total); });
  EXPECT_TRUE(arena.ok());
  EXPECT_EQ(arena.value().size(), 256);
  float a[3] = {};
  std::memcpy(a, arena.value().data(), sizeof(a));
  EXPECT_EQ(a[0], 1.0f);
  EXPECT_EQ(a[1], -2.0f);
  EXPECT_EQ(a[2], 0.5f);
  EXPECT_EQ(std::memcmp(arena.value().data() + 128, "\x01\x02\x03\x04\x05", 5), 0);
  EXPECT_EQ(std::memcmp(arena.value().data() + 133, a, sizeof(a)), 0);
  EXPECT_EQ(progress.size(), size_t{2});
  EXPECT_EQ(progress[0].first, 6);
  EXPECT_EQ(progress[1].first, 17);
  EXPECT_EQ(progress[1].second, 17);
}

TEST(LoadWeightsNamesTheTensorThatDoesNotFit) {
  Fixture fixture;
  const TensorCache cache = fixture.Cache();
  WeightEntry::Source& source = fixture.metadata.entries[1].sources[0];
  source.shape = {6};
  std::string message = CheckWeights(fixture.metadata, cache)->message;
  EXPECT_TRUE(message.find("b is int8 [5], the model library needs int8 [6]") != std::string::npos);
  source.shape = {5};
  source.dtype = DataType::kUint8;
  message = CheckWeights(fixture.metadata, cache)->message;
  EXPECT_TRUE(message.find("b is int8 [5], the model library needs uint8 [5]") !=
              std::string::npos);
  source.name = "c";
  message = CheckWeights(fixture.metadata, cache)->message;
  EXPECT_TRUE(message.find("has no tensor c") != std::string::npos);
  EXPECT_FALSE(LoadWeights(fixture.metadata, cache, Concatenate, nullptr).ok());
}

TEST(LoadWeightsPassesOnTheErrorOfAPackFunction) {
  const Fixture fixture;
  const TensorCache cache = fixture.Cache();
  const auto failing = [](const std::string& pack, const std::vector<SourceTensor>&, uint8_t*,
                          int64_t) -> Status {
    return Error{ErrorCode::kIncompatible, "library", pack + " failed"};
  };
  const Result<HostMemory> arena = LoadWeights(fixture.metadata, cache, failing, nullptr);
  EXPECT_FALSE(arena.ok());
  EXPECT_EQ(arena.error().message, std::string("pack_first failed"));
}

TEST(LoadWeightsRefusesAnArenaBeyondMemory) {
  Fixture fixture;
  fixture.metadata.arena_bytes = int64_t{1} << 44;
  const TensorCache cache = fixture.Cache();
  const Result<HostMemory> arena = LoadWeights(fixture.metadata, cache, Concatenate, nullptr);
  EXPECT_FALSE(arena.ok());
  EXPECT_EQ(arena.error().code, ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace mlc_server
