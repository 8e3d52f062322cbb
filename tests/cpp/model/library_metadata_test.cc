#include "model/library_metadata.h"

#include <string>
#include <utility>

#include "support/cpp_test.h"
#include "test_folder.h"

namespace mlc_server {
namespace {

using testing::Replace;

// 30 layers x 3 heads x 2 x 16 x 64 x 2 bytes = 368640.
constexpr char kMetadata[] = R"({"abi": 1, "format": "mlc_server-model-library",
  "target": "llvm -mcpu=znver5", "feature_level": "avx512vnni", "model_type": "llama",
  "quantization": "gguf", "vocab_size": 49152, "hidden_size": 576, "num_layers": 30,
  "num_q_heads": 9, "num_kv_heads": 3, "head_dim": 64, "context_window_size": 8192,
  "kv": {"dtype": "float16", "page_size": 16, "shape": ["num_layers"], "bytes_per_page": 368640},
  "limits": {"max_rows": 2048, "max_sequences": 512, "max_logit_rows": 512,
             "max_attention_items": 4096},
  "weights": {"arena_bytes": 256, "alignment": 64, "entries": [
    {"name": "second", "offset": 128, "nbytes": 128, "pack": "pack_b", "sources": ["b", "c"],
     "source_shapes": [[4, 2], [4]], "source_dtypes": ["uint32", "float16"]},
    {"name": "first", "offset": 0, "nbytes": 100, "pack": "pack_a", "sources": ["a"],
     "source_shapes": [[8]], "source_dtypes": ["float32"]}]}})";

constexpr char kConfig[] = R"({"model_type": "llama", "quantization": "gguf", "vocab_size": 49152,
  "model_config": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
                   "num_key_value_heads": 3, "vocab_size": 49152, "head_dim": 64}})";

void ExpectRefused(const std::string& from, const std::string& to, const std::string& needle) {
  const Result<LibraryMetadata> result = ParseLibraryMetadata(Replace(kMetadata, from, to), "x.so");
  const std::string message = result.ok() ? "accepted" : result.error().message;
  if (message.find(needle) == std::string::npos) {
    testing::Fail(__FILE__, __LINE__,
                  from + " -> " + to + ": expected \"" + needle + "\" in: " + message);
  }
}

void ExpectConfigRefused(const std::string& from, const std::string& to,
                         const std::string& needle) {
  const LibraryMetadata metadata = ParseLibraryMetadata(kMetadata, "x.so").value();
  const JsonValue config = ParseJson(Replace(kConfig, from, to), "config").value();
  const Status status = CheckModelConfig(metadata, config, "config.json", "x.so");
  const std::string message = status ? status->message : "accepted";
  if (message.find(needle) == std::string::npos) {
    testing::Fail(__FILE__, __LINE__,
                  from + " -> " + to + ": expected \"" + needle + "\" in: " + message);
  }
}

TEST(MetadataIsReadAndEntriesSorted) {
  const Result<LibraryMetadata> result = ParseLibraryMetadata(kMetadata, "x.so");
  EXPECT_TRUE(result.ok());
  const LibraryMetadata& metadata = result.value();
  EXPECT_EQ(metadata.num_layers, 30);
  EXPECT_EQ(metadata.kv_bytes_per_page, 368640);
  EXPECT_EQ(metadata.max_attention_items, 4096);
  EXPECT_EQ(metadata.entries.size(), size_t{2});
  EXPECT_EQ(metadata.entries[0].name, std::string("first"));
  EXPECT_EQ(metadata.entries[1].sources[1].name, std::string("c"));
  EXPECT_EQ(metadata.entries[1].sources[1].dtype, DataType::kFloat16);
}

TEST(MetadataOfAnotherAbiOrLayoutIsRefusedNamingBoth) {
  ExpectRefused("\"abi\": 1", "\"abi\": 2", "metadata.abi is 2, this program needs 1");
  ExpectRefused("mlc_server-model-library", "other",
                "this program needs \"mlc_server-model-library\"");
  ExpectRefused("\"page_size\": 16", "\"page_size\": 32", "is 32, this program needs 16");
  ExpectRefused("\"dtype\": \"float16\"", "\"dtype\": \"int8\"", "this program needs \"float16\"");
  ExpectRefused("368640", "368641", "kv.bytes_per_page is 368641");
  ExpectRefused("\"num_layers\": 30", "\"num_layers\": 2147483647", "kv.bytes_per_page");
}

TEST(MetadataFieldsAreTypedAndBounded) {
  ExpectRefused("\"vocab_size\": 49152", "\"vocab_size\": 0", "vocab_size is 0");
  ExpectRefused("\"vocab_size\": 49152", "\"vocab_size\": \"many\"", "vocab_size is a string");
  ExpectRefused("\"max_rows\": 2048, ", "", "limits.max_rows is missing");
  ExpectRefused("\"head_dim\": 64", "\"head_dim\": 9999999999", "head_dim is 9999999999");
  EXPECT_FALSE(ParseLibraryMetadata("[]", "x.so").ok());
  EXPECT_FALSE(ParseLibraryMetadata("{", "x.so").ok());
}

TEST(MetadataEntriesStayInsideTheArenaAndApart) {
  ExpectRefused("\"nbytes\": 128", "\"nbytes\": 129", "puts second at 128 + 129");
  ExpectRefused("\"offset\": 128", "\"offset\": 120", "aligned to 64");
  ExpectRefused("\"offset\": 128", "\"offset\": -64", "offset is -64");
  ExpectRefused("\"offset\": 128", "\"offset\": 64", "overlap: first and second");
  ExpectRefused("\"arena_bytes\": 256", "\"arena_bytes\": 9223372036854775807", "arena_bytes");
  ExpectRefused("[[4, 2], [4]]", "[[4, 2]]", "has 2 names, 1 shapes and 2 dtypes");
  ExpectRefused("[[4, 2], [4]]", "[[4, 2], 4]", "holds no array for c");
  ExpectRefused("[[4, 2], [4]]", "[[4, 0], [4]]", "holds a bad dimension for b");
  ExpectRefused("\"uint32\"", "\"uint128\"", "holds \"uint128\"");
}

// No prefix of the metadata and no change of one byte in it may do worse than be refused.
TEST(MetadataSurvivesDamage) {
  const std::string text = kMetadata;
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_FALSE(ParseLibraryMetadata(text.substr(0, length), "x.so").ok());
  }
  int accepted = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    for (const char byte : {'9', '-', '"', ']', '\0', '\xff'}) {
      std::string changed = text;
      changed[at] = byte;
      const Result<LibraryMetadata> result = ParseLibraryMetadata(changed, "x.so");
      if (!result.ok()) {
        continue;
      }
      ++accepted;
      for (const WeightEntry& entry : result.value().entries) {
        EXPECT_LE(entry.offset + entry.nbytes, result.value().arena_bytes);
        EXPECT_EQ(entry.offset % 64, 0);
      }
    }
  }
  EXPECT_GT(accepted, 0);
}

TEST(ModelFolderOfAnotherModelIsRefusedNamingBoth) {
  ExpectConfigRefused("\"num_hidden_layers\": 30", "\"num_hidden_layers\": 32",
                      "model_config.num_hidden_layers is 32, x.so was compiled for 30");
  ExpectConfigRefused("\"gguf\"", "\"q4f16_1\"", "quantization is \"q4f16_1\"");
  ExpectConfigRefused("\"model_type\": \"llama\"", "\"model_type\": \"qwen2\"", "model_type");
  ExpectConfigRefused("\"head_dim\": 64", "\"head_dim\": \"64\"", "is a string");
  // What the folder does not say is not held against it.
  ExpectConfigRefused(", \"head_dim\": 64", "", "accepted");
  ExpectConfigRefused("\"model_config\"", "\"no_config\"", "model_config is missing");
}

}  // namespace
}  // namespace mlc_server
