#include "core/request.h"

#include "support/cpp_test.h"

namespace mlc_server {
namespace {

EngineConfig SmallConfig() {
  EngineConfig config;
  config.vocab_size = 50;
  config.max_sequence_length = 32;
  config.page_size = 4;
  config.num_pages = 16;
  config.max_choices = 3;
  return config;
}

Request PromptOf(int32_t length) {
  Request request;
  request.prompt_ids.assign(length, 1);
  return request;
}

TEST(RequestFitsWhenOneTokenCanStillBeGenerated) {
  EXPECT_FALSE(PromptOf(1).Validate(SmallConfig()).has_value());
  EXPECT_FALSE(PromptOf(31).Validate(SmallConfig()).has_value());
  const Status status = PromptOf(32).Validate(SmallConfig());
  EXPECT_TRUE(status.has_value());
  EXPECT_EQ(status->code, ErrorCode::kContextOverflow);
  EXPECT_EQ(status->param, std::string("prompt"));
  EXPECT_EQ(status->message, std::string("prompt and one generated token must fit 32 tokens, but "
                                         "the prompt has 32"));
}

TEST(RequestThatGeneratesNothingMayFillTheContext) {
  Request request = PromptOf(32);
  request.sampling.max_tokens = 0;
  EXPECT_FALSE(request.Validate(SmallConfig()).has_value());
  request.prompt_ids.push_back(1);
  EXPECT_EQ(request.Validate(SmallConfig())->message,
            std::string("prompt must fit 32 tokens, but the prompt has 33"));
}

TEST(RequestMustFitThePoolToo) {
  EngineConfig config = SmallConfig();
  config.num_pages = 2;
  EXPECT_FALSE(PromptOf(7).Validate(config).has_value());
  const Status status = PromptOf(8).Validate(config);
  EXPECT_TRUE(status.has_value());
  EXPECT_EQ(status->code, ErrorCode::kContextOverflow);
  EXPECT_NE(status->message.find("fit 8 tokens"), std::string::npos);
}

TEST(EmptyPromptIsRefused) {
  const Status status = PromptOf(0).Validate(SmallConfig());
  EXPECT_TRUE(status.has_value());
  EXPECT_EQ(status->code, ErrorCode::kInvalidValue);
  EXPECT_EQ(status->param, std::string("prompt"));
}

TEST(PromptIdsMustBeInTheVocabulary) {
  for (int32_t bad : {-1, 50, INT32_MAX, INT32_MIN}) {
    Request request = PromptOf(4);
    request.prompt_ids[2] = bad;
    const Status status = request.Validate(SmallConfig());
    EXPECT_TRUE(status.has_value());
    EXPECT_EQ(status->param, std::string("prompt"));
    EXPECT_NE(status->message.find("[0, 50), got " + std::to_string(bad)), std::string::npos);
  }
}

TEST(NumberOfChoicesIsBounded) {
  for (int32_t num_choices : {0, -1, 4}) {
    Request request = PromptOf(4);
    request.num_choices = num_choices;
    const Status status = request.Validate(SmallConfig());
    EXPECT_TRUE(status.has_value());
    EXPECT_EQ(status->param, std::string("n"));
    EXPECT_NE(status->message.find("[1, 3], got " + std::to_string(num_choices)),
              std::string::npos);
  }
  Request request = PromptOf(4);
  request.num_choices = 3;
  EXPECT_FALSE(request.Validate(SmallConfig()).has_value());
}

TEST(RequestChecksItsSamplingParams) {
  Request request = PromptOf(4);
  request.sampling.stop_token_ids = {50};
  const Status status = request.Validate(SmallConfig());
  EXPECT_TRUE(status.has_value());
  EXPECT_EQ(status->param, std::string("stop_token_ids"));
}

}  // namespace
}  // namespace mlc_server
