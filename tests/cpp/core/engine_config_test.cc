#include "core/engine_config.h"

#include <functional>

#include "core/limits.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

EngineConfig Valid() {
  EngineConfig config;
  config.vocab_size = 10;
  config.eos_token_ids = {0, 9};
  return config;
}

TEST(DefaultEngineConfigNeedsOnlyAVocabulary) {
  EXPECT_FALSE(Valid().Validate().has_value());
  const Status status = EngineConfig().Validate();
  EXPECT_TRUE(status.has_value());
  EXPECT_EQ(status->param, std::string("vocab_size"));
}

TEST(EngineConfigFieldsAreRefusedBeyondTheirBounds) {
  struct Case {
    std::string param;
    int32_t EngineConfig::* field;
    int32_t low;
    int32_t high;
  };
  const std::vector<Case> cases = {
      {"max_batch_size", &EngineConfig::max_batch_size, 1, kMaxBatchSize},
      {"prefill_chunk_size", &EngineConfig::prefill_chunk_size, 1, kMaxPrefillChunkSize},
      {"max_sequence_length", &EngineConfig::max_sequence_length, 2, kMaxSequenceLength},
      {"page_size", &EngineConfig::page_size, 1, kMaxPageSize},
      {"num_pages", &EngineConfig::num_pages, 1, kMaxPages},
      {"max_queue_size", &EngineConfig::max_queue_size, 1, kMaxQueueSize},
      {"max_choices", &EngineConfig::max_choices, 1, kMaxChoicesPerRequest},
      {"vocab_size", &EngineConfig::vocab_size, 10, kMaxVocabSize},
      {"draft_tokens_max", &EngineConfig::draft_tokens_max, 1, kMaxDraftTokens},
      {"ngram_max", &EngineConfig::ngram_max, 3, kMaxNgram},
      {"scored_rows_max", &EngineConfig::scored_rows_max, 1, kMaxScoredRows},
      {"speculative_rows_max", &EngineConfig::speculative_rows_max, 1, kMaxSpeculativeRows},
  };
  for (const Case& each : cases) {
    EngineConfig config = Valid();
    config.*each.field = each.low;
    EXPECT_FALSE(config.Validate().has_value());
    config.*each.field = each.high;
    EXPECT_FALSE(config.Validate().has_value());
    for (int32_t bad : {0, -1, each.high + 1}) {
      config.*each.field = bad;
      const Status status = config.Validate();
      EXPECT_TRUE(status.has_value());
      EXPECT_EQ(status->code, ErrorCode::kInvalidValue);
      EXPECT_EQ(status->param, each.param);
      EXPECT_NE(status->message.find(std::to_string(each.high)), std::string::npos);
      EXPECT_NE(status->message.find("got " + std::to_string(bad)), std::string::npos);
    }
  }
}

TEST(NgramSizesAreInOrder) {
  EngineConfig config = Valid();
  config.ngram_min = config.ngram_max = 3;
  EXPECT_FALSE(config.Validate().has_value());
  config.ngram_min = 4;
  EXPECT_EQ(config.Validate()->param, std::string("ngram_max"));
  config.ngram_min = 0;
  EXPECT_EQ(config.Validate()->param, std::string("ngram_min"));
}

TEST(KvSlotsMustBeCountableWithInt32) {
  EngineConfig config = Valid();
  config.page_size = 1024;
  config.num_pages = (1 << 21) - 1;
  EXPECT_FALSE(config.Validate().has_value());
  config.num_pages = 1 << 21;
  const Status status = config.Validate();
  EXPECT_TRUE(status.has_value());
  EXPECT_EQ(status->param, std::string("num_pages"));
  config.page_size = 1;
  config.num_pages = 1;
  EXPECT_TRUE(config.Validate().has_value());
}

TEST(EosIdsMustBeInTheVocabulary) {
  EngineConfig config = Valid();
  config.eos_token_ids = {10};
  const Status status = config.Validate();
  EXPECT_TRUE(status.has_value());
  EXPECT_EQ(status->param, std::string("eos_token_ids"));
  config.eos_token_ids.assign(kMaxEosTokenIds + 1, 0);
  EXPECT_TRUE(config.Validate().has_value());
}

TEST(LongestSequenceIsBoundedByContextAndByPool) {
  EngineConfig config = Valid();
  config.max_sequence_length = 100;
  config.page_size = 16;
  config.num_pages = 6;
  EXPECT_EQ(config.MaxTokensPerSequence(), 96);
  config.num_pages = 7;
  EXPECT_EQ(config.MaxTokensPerSequence(), 100);
}

}  // namespace
}  // namespace mlc_server
