// An engine is not built on limits that its model cannot serve.

#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

Error CreateError(const EngineConfig& config, const FakeRunnerOptions& options = SmallRunner()) {
  const auto engine = Engine::Create(std::make_shared<FakeRunner>(options), MakeVocabulary(),
                                     config, std::make_shared<SteadyClock>());
  return engine.error();
}

TEST(CreateRefusesLimitsTheModelDoesNotFit) {
  EngineConfig config = SmallConfig();
  config.vocab_size = 255;
  EXPECT_EQ(CreateError(config).message, "the model's is 256, got 255");
  config = SmallConfig();
  config.page_size = 8;
  EXPECT_EQ(CreateError(config).param, "page_size");
  config = SmallConfig();
  config.max_sequence_length = 129;
  EXPECT_EQ(CreateError(config).param, "max_sequence_length");
  EXPECT_EQ(CreateError(config).code, ErrorCode::kIncompatible);
  FakeRunnerOptions options = SmallRunner();
  options.max_rows = 63;
  EXPECT_EQ(CreateError(SmallConfig(), options).param, "prefill_chunk_size");
  options = SmallRunner();
  options.max_logit_rows = 15;
  EXPECT_EQ(CreateError(SmallConfig(), options).message,
            "must be at most the model's logit rows, 15, got 16");
  options.max_logit_rows = 79;
  EXPECT_EQ(CreateError(SmallConfig(), options).message,
            "must be at most the model's logit rows less max_batch_size, 63, got 64");
  config = SmallConfig();
  config.num_pages = 0;
  EXPECT_EQ(CreateError(config).param, "num_pages");
}

TEST(OneRunnerServesOneEngineAfterTheOther) {
  const auto runner = std::make_shared<FakeRunner>(SmallRunner());
  const auto clock = std::make_shared<SteadyClock>();
  for (int32_t i = 0; i < 2; ++i) {
    const auto engine = Engine::Create(runner, MakeVocabulary(), SmallConfig(), clock);
    EXPECT_TRUE(engine.ok());
  }
}

TEST(StatsCountWhatWasDone) {
  Harness harness;
  harness.Submit(GreedyRequest(1, std::vector<int32_t>(10, 5), 4));
  Request twins = GreedyRequest(2, std::vector<int32_t>(10, 6), 4);
  twins.num_choices = 2;
  harness.Submit(twins);
  EXPECT_EQ(harness.engine().Stats().num_waiting, 2);
  harness.Step();
  EngineStats stats = harness.engine().Stats();
  EXPECT_EQ(stats.num_open, 2);
  EXPECT_EQ(stats.num_waiting, 0);
  EXPECT_GT(stats.last_batch_tokens, 10);
  EXPECT_LT(stats.free_pages, stats.total_pages);
  harness.RunToEnd();
  stats = harness.engine().Stats();
  EXPECT_EQ(stats.generated_tokens, 12);
  // Both prompts, and the last token of the prompt that the second choice shares.
  EXPECT_EQ(stats.prefill_tokens, 10 + 10 + 1);
  EXPECT_EQ(stats.finished_length, 3);
  EXPECT_EQ(stats.num_steps, 5);
  EXPECT_EQ(stats.preemptions, 0);
  EXPECT_EQ(stats.num_open, 0);
  EXPECT_EQ(stats.free_pages, stats.total_pages);
}

}  // namespace
}  // namespace mlc_server::testing
