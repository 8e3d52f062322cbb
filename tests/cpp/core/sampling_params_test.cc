#include "core/sampling_params.h"

#include <cmath>
#include <functional>
#include <limits>

#include "core/limits.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

constexpr int32_t kVocabSize = 100;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  std::function<void(SamplingParams*)> change;
  std::string param;  // "" when the change must be accepted
  std::string limit;  // text that the refusal must contain
  std::string value;  // likewise
};

void Expect(const std::vector<Case>& cases) {
  for (size_t index = 0; index < cases.size(); ++index) {
    SamplingParams params;
    cases[index].change(&params);
    const Status status = params.Validate(kVocabSize);
    const std::string where = "case " + std::to_string(index) + ": ";
    EXPECT_EQ(where + (status ? status->param : ""), where + cases[index].param);
    if (status) {
      EXPECT_EQ(status->code, ErrorCode::kInvalidValue);
      EXPECT_NE((where + status->message).find(cases[index].limit), std::string::npos);
      EXPECT_NE((where + status->message).find(cases[index].value), std::string::npos);
      EXPECT_NE(status->message.find(status->param), std::string::npos);
    }
  }
}

TEST(DefaultSamplingParamsAreValid) { EXPECT_FALSE(SamplingParams().Validate(1).has_value()); }

TEST(SamplingNumbersAreAcceptedUpToTheirBoundsAndRefusedBeyond) {
  Expect({
      {[](auto* p) { p->temperature = 0.0; }, "", "", ""},
      {[](auto* p) { p->temperature = 2.0; }, "", "", ""},
      {[](auto* p) { p->temperature = 2.5; }, "temperature", "[0, 2]", "2.5"},
      {[](auto* p) { p->temperature = -0.5; }, "temperature", "[0, 2]", "-0.5"},
      {[](auto* p) { p->temperature = kNan; }, "temperature", "[0, 2]", "nan"},
      {[](auto* p) { p->temperature = kInfinity; }, "temperature", "[0, 2]", "inf"},
      {[](auto* p) { p->top_p = 1e-6; }, "", "", ""},
      {[](auto* p) { p->top_p = 0.0; }, "top_p", "(0, 1]", "0"},
      {[](auto* p) { p->top_p = 1.5; }, "top_p", "(0, 1]", "1.5"},
      {[](auto* p) { p->top_p = kNan; }, "top_p", "(0, 1]", "nan"},
      {[](auto* p) { p->top_k = INT32_MAX; }, "", "", ""},
      {[](auto* p) { p->top_k = -1; }, "top_k", "[0, 2147483647]", "-1"},
      {[](auto* p) { p->min_p = 1.0; }, "", "", ""},
      {[](auto* p) { p->min_p = 1.25; }, "min_p", "[0, 1]", "1.25"},
      {[](auto* p) { p->repetition_penalty = 2.0; }, "", "", ""},
      {[](auto* p) { p->repetition_penalty = 0.0; }, "repetition_penalty", "(0, 2]", "0"},
      {[](auto* p) { p->presence_penalty = -2.0; }, "", "", ""},
      {[](auto* p) { p->presence_penalty = -2.5; }, "presence_penalty", "[-2, 2]", "-2.5"},
      {[](auto* p) { p->frequency_penalty = 2.0; }, "", "", ""},
      {[](auto* p) { p->frequency_penalty = 3.0; }, "frequency_penalty", "[-2, 2]", "3"},
      {[](auto* p) { p->top_logprobs = 20; }, "", "", ""},
      {[](auto* p) { p->top_logprobs = 21; }, "top_logprobs", "[-1, 20]", "21"},
      {[](auto* p) { p->top_logprobs = -2; }, "top_logprobs", "[-1, 20]", "-2"},
      {[](auto* p) { p->prompt_logprobs = 20; }, "", "", ""},
      {[](auto* p) { p->prompt_logprobs = 21; }, "prompt_logprobs", "[-1, 20]", "21"},
  });
}

TEST(TokenLimitsAreChecked) {
  Expect({
      {[](auto* p) { p->max_tokens = 1; }, "", "", ""},
      {[](auto* p) { p->max_tokens = 0; }, "", "", ""},
      {[](auto* p) { p->max_tokens = -2; }, "max_tokens", "[0, 2147483647]", "-2"},
      {[](auto* p) { p->min_tokens = INT32_MAX; }, "", "", ""},
      {[](auto* p) { p->min_tokens = -1; }, "min_tokens", "[0, 2147483647]", "-1"},
      {[](auto* p) { p->max_tokens = p->min_tokens = 5; }, "", "", ""},
      {[](auto* p) {
         p->max_tokens = 5;
         p->min_tokens = 6;
       },
       "min_tokens", "[0, 5]", "6"},
  });
}

TEST(SamplingListsAreBoundedAndTheirIdsAreInTheVocabulary) {
  Expect({
      {[](auto* p) { p->logit_bias.assign(kMaxLogitBiasEntries, {99, -100.0f}); }, "", "", ""},
      {[](auto* p) { p->logit_bias.assign(kMaxLogitBiasEntries + 1, {0, 0.0f}); }, "logit_bias",
       "1024", "1025"},
      {[](auto* p) { p->logit_bias = {{100, 0.0f}}; }, "logit_bias", "[0, 100)", "100"},
      {[](auto* p) { p->logit_bias = {{-1, 0.0f}}; }, "logit_bias", "[0, 100)", "-1"},
      {[](auto* p) { p->logit_bias = {{0, 100.5f}}; }, "logit_bias", "[-100, 100]", "100.5"},
      {[](auto* p) { p->logit_bias = {{0, std::nanf("")}}; }, "logit_bias", "[-100, 100]", "nan"},
      {[](auto* p) { p->stop_token_ids.assign(kMaxStopTokenIds, 0); }, "", "", ""},
      {[](auto* p) { p->stop_token_ids.assign(kMaxStopTokenIds + 1, 0); }, "stop_token_ids", "256",
       "257"},
      {[](auto* p) { p->stop_token_ids = {3, 100}; }, "stop_token_ids", "[0, 100)", "100"},
      {[](auto* p) { p->stop.assign(16, std::string(1024, 'x')); }, "", "", ""},
      {[](auto* p) { p->stop.assign(17, "x"); }, "stop", "16", "17"},
      {[](auto* p) { p->stop = {"x", ""}; }, "stop", "1 to 1024", "of 0"},
      {[](auto* p) { p->stop = {std::string(1025, 'x')}; }, "stop", "1 to 1024", "1025"},
  });
}

}  // namespace
}  // namespace mlc_server
