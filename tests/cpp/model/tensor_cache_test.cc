#include "model/tensor_cache.h"

#include <string>
#include <utility>
#include <vector>

#include "support/cpp_test.h"
#include "test_folder.h"

namespace mlc_server {
namespace {

using testing::Replace;
using testing::TestFolder;

// Two tensors in one shard of 32 bytes: 4 float32 kept as bfloat16, then 2x3 float32.
constexpr char kIndex[] = R"({"metadata": {"ParamSize": 2}, "records": [
  {"dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": 32, "md5sum": "", "records": [
    {"name": "a", "shape": [4], "dtype": "float32", "format": "f32-to-bf16", "nbytes": 8,
     "byteOffset": 0},
    {"name": "b", "shape": [2, 3], "dtype": "float32", "format": "raw", "nbytes": 24,
     "byteOffset": 8}]}]})";

std::string Shard() {
  std::string bytes;
  for (int i = 0; i < 32; ++i) {
    bytes.push_back(static_cast<char>(i));
  }
  return bytes;
}

bool Opens(const TestFolder& folder) { return TensorCache::Open(folder.path()).ok(); }

std::string OpenError(const std::string& index, const std::string& shard) {
  const TestFolder folder;
  folder.Write("tensor-cache.json", index);
  folder.Write("params_shard_0.bin", shard);
  const Result<TensorCache> cache = TensorCache::Open(folder.path());
  return cache.ok() ? "accepted" : cache.error().message;
}

void ExpectRefused(const std::string& from, const std::string& to, const std::string& needle) {
  const std::string message = OpenError(Replace(kIndex, from, to), Shard());
  if (message.find(needle) == std::string::npos) {
    testing::Fail(__FILE__, __LINE__,
                  from + " -> " + to + ": expected \"" + needle + "\" in: " + message);
  }
}

TEST(TensorCacheMapsTensorsToTheirBytes) {
  const TestFolder folder;
  folder.Write("tensor-cache.json", kIndex);
  folder.Write("params_shard_0.bin", Shard());
  const Result<TensorCache> cache = TensorCache::Open(folder.path());
  EXPECT_TRUE(cache.ok());
  EXPECT_EQ(cache.value().num_tensors(), 2);
  const TensorRecord* a = cache.value().Find("a");
  EXPECT_EQ(a->dtype, DataType::kFloat32);
  EXPECT_EQ(a->stored_dtype, DataType::kBfloat16);
  EXPECT_EQ(a->num_elements, 4);
  const TensorRecord* b = cache.value().Find("b");
  EXPECT_EQ(b->stored_dtype, DataType::kFloat32);
  EXPECT_EQ(b->shape, std::vector<int64_t>({2, 3}));
  const MappedFile& shard = cache.value().shards()[static_cast<size_t>(b->shard)];
  EXPECT_EQ(static_cast<int>(shard.data()[b->byte_offset]), 8);
  EXPECT_TRUE(cache.value().Find("c") == nullptr);
}

TEST(TensorCacheReadsTheOlderIndexName) {
  const TestFolder folder;
  folder.Write("ndarray-cache.json", kIndex);
  folder.Write("params_shard_0.bin", Shard());
  EXPECT_TRUE(Opens(folder));
  // The newer name wins, also when it is broken.
  folder.Write("tensor-cache.json", "{");
  EXPECT_FALSE(Opens(folder));
}

TEST(TensorCacheNamesWhatIsMissing) {
  const TestFolder folder;
  const Error no_index = TensorCache::Open(folder.path()).error();
  EXPECT_EQ(no_index.code, ErrorCode::kNotFound);
  EXPECT_EQ(no_index.message, "cannot open " + folder.path() + "/tensor-cache.json");
  folder.Write("tensor-cache.json", kIndex);
  const Error error = TensorCache::Open(folder.path()).error();
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_TRUE(error.message.find("params_shard_0.bin") != std::string::npos);
}

TEST(TensorCacheRefusesShardsOfAnotherLength) {
  EXPECT_EQ(OpenError(kIndex, Shard()), std::string("accepted"));
  const std::string truncated = OpenError(kIndex, Shard().substr(0, 31));
  EXPECT_TRUE(truncated.find("has 31 bytes, the index says 32") != std::string::npos);
  EXPECT_NE(OpenError(kIndex, Shard() + "x"), std::string("accepted"));
  EXPECT_NE(OpenError(kIndex, ""), std::string("accepted"));
}

TEST(TensorCacheRefusesRecordsOutsideTheirShard) {
  ExpectRefused("\"byteOffset\": 8", "\"byteOffset\": 9", "of a shard of 32");
  ExpectRefused("\"byteOffset\": 8", "\"byteOffset\": 9223372036854775807", "of a shard of 32");
  ExpectRefused("\"byteOffset\": 8", "\"byteOffset\": -8", "byteOffset is -8");
  ExpectRefused("\"byteOffset\": 8", "\"byteOffset\": 8.0", "is a fraction");
  ExpectRefused("\"byteOffset\": 8", "\"byteOffset\": 99999999999999999999", "not valid JSON");
}

TEST(TensorCacheRefusesSizesThatDoNotFitTheShape) {
  ExpectRefused("\"nbytes\": 24", "\"nbytes\": 23", "nbytes of b is 23, shape [2, 3] of float32");
  ExpectRefused("\"nbytes\": 24", "\"nbytes\": -24", "nbytes is -24");
  ExpectRefused("\"shape\": [2, 3]", "\"shape\": [2, 4]", "takes 32");
  ExpectRefused("\"shape\": [2, 3]", "\"shape\": [2, -3]", "shape[1] is -3");
  ExpectRefused("\"shape\": [2, 3]", "\"shape\": [0, 3]", "shape[0] is 0");
  ExpectRefused("\"shape\": [2, 3]", "\"shape\": [1099511627776, 1099511627776]", "too large");
  ExpectRefused("\"shape\": [2, 3]", "\"shape\": [1,1,1,1,1,1,2,1,3]", "too large");
  ExpectRefused("\"shape\": [2, 3]", "\"shape\": 6", "is an integer, expected an array");
  // float32 without the narrowing takes twice the bytes.
  ExpectRefused("\"f32-to-bf16\"", "\"raw\"", "of float32 takes 16");
}

TEST(TensorCacheRefusesOverlapsAndDuplicates) {
  ExpectRefused("\"byteOffset\": 8", "\"byteOffset\": 6", "a and b overlap in params_shard_0.bin");
  ExpectRefused("\"name\": \"b\"", "\"name\": \"a\"", "is a second \"a\"");
}

TEST(TensorCacheRefusesUnknownTypesAndFormats) {
  ExpectRefused("\"dtype\": \"float32\", \"format\": \"raw\"",
                "\"dtype\": \"float64\", \"format\": \"raw\"", "dtype of b is \"float64\"");
  ExpectRefused("\"format\": \"raw\", ", "\"format\": \"zip\", ", "format of b is \"zip\"");
  ExpectRefused("\"format\": \"raw\", ", "", "format is missing");
}

TEST(TensorCacheRefusesShardsOutsideTheFolder) {
  for (const char* name :
       {"../x.bin", "/etc/passwd", "a/b.bin", "..", ".", "", "a\\\\b", "a\\u0000b"}) {
    ExpectRefused("\"params_shard_0.bin\"", std::string("\"") + name + "\"",
                  "expected the name of a file in the folder");
  }
}

TEST(TensorCacheRefusesDocumentsOfAnotherShape) {
  EXPECT_NE(OpenError("[]", Shard()), std::string("accepted"));
  EXPECT_NE(OpenError("{}", Shard()), std::string("accepted"));
  EXPECT_NE(OpenError(R"({"records": {}})", Shard()), std::string("accepted"));
  EXPECT_NE(OpenError(R"({"records": [1]})", Shard()), std::string("accepted"));
}

// No prefix of the index and no change of one byte in it may do worse than be refused.
TEST(TensorCacheSurvivesBrokenIndexes) {
  const TestFolder folder;
  folder.Write("params_shard_0.bin", Shard());
  const std::string index = kIndex;
  for (size_t length = 0; length < index.size(); ++length) {
    folder.Write("tensor-cache.json", index.substr(0, length));
    EXPECT_FALSE(Opens(folder));
  }
  int accepted = 0;
  for (size_t at = 0; at < index.size(); ++at) {
    for (const char byte : {'9', '-', '"', ']', '\0', '\xff'}) {
      std::string changed = index;
      changed[at] = byte;
      folder.Write("tensor-cache.json", changed);
      const Result<TensorCache> cache = TensorCache::Open(folder.path());
      accepted += cache.ok() ? 1 : 0;
      for (const char* name : {"a", "b"}) {
        const TensorRecord* record = cache.ok() ? cache.value().Find(name) : nullptr;
        if (record != nullptr) {
          EXPECT_LE(record->byte_offset + record->nbytes, 32);
          EXPECT_EQ(record->nbytes, record->num_elements * SizeOf(record->stored_dtype));
        }
      }
    }
  }
  EXPECT_GT(accepted, 0);
}

TEST(DroppedPagesReadTheSameAgain) {
  const TestFolder folder;
  std::string content(100000, 'x');
  content[70000] = 'y';
  const Result<MappedFile> file = MappedFile::Open(folder.Write("file", content));
  EXPECT_TRUE(file.ok());
  file.value().Prefetch(1, 99999);
  EXPECT_EQ(file.value().data()[70000], 'y');
  file.value().Drop(1, 99999);
  EXPECT_EQ(file.value().data()[70000], 'y');
  EXPECT_THROW(file.value().Drop(1, 100000), InvariantError);
}

}  // namespace
}  // namespace mlc_server
