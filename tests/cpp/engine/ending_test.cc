// When and how a choice ends, and what is reported of it.

#include <random>

#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

Outcome Run(const Request& request, const FakeRunnerOptions& options = SmallRunner()) {
  Harness harness(SmallConfig(), options);
  harness.Submit(request);
  harness.RunToEnd();
  harness.ExpectIdle();
  const Outcome& outcome = harness.outcome(request.id);
  EXPECT_EQ(outcome.num_ends, 1);
  EXPECT_EQ(outcome.prompt_tokens, static_cast<int32_t>(request.prompt_ids.size()));
  return outcome;
}

// A prompt of its own for each `seed`.
std::vector<int32_t> Prompt(uint64_t seed, int32_t length = 5) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> ids;
  for (int32_t position = 0; position < length; ++position) {
    ids.push_back(2 + static_cast<int32_t>(random() % (kVocabSize - 2)));
  }
  return ids;
}

FakeRunnerOptions AlwaysEos() {
  FakeRunnerOptions options = SmallRunner();
  options.eos_probability = 1.0;
  return options;
}

// Only printable ASCII is drawn, so that bytes and text are the same.
Request AsciiRequest(uint64_t seed, int32_t max_tokens) {
  Request request = GreedyRequest(1, Prompt(seed), max_tokens);
  for (int32_t id = 0; id < kVocabSize; ++id) {
    if (id < 32 || id > 126) {
      request.sampling.logit_bias.push_back({id, -100.0f});
    }
  }
  return request;
}

TEST(MaxTokensEndsWithLength) {
  for (const int32_t max_tokens : {1, 2, 17}) {
    const Outcome outcome = Run(GreedyRequest(1, Prompt(1), max_tokens));
    EXPECT_EQ(outcome.finish_reason, FinishReason::kLength);
    EXPECT_EQ(outcome.completion_tokens, max_tokens);
  }
}

TEST(FullContextEndsWithLength) {
  Request request = GreedyRequest(1, Prompt(1), -1);
  Outcome outcome = Run(request);
  EXPECT_EQ(outcome.finish_reason, FinishReason::kLength);
  EXPECT_EQ(outcome.completion_tokens, 128 - 5);
  request.prompt_ids = Prompt(1, 127);
  outcome = Run(request);
  EXPECT_EQ(outcome.completion_tokens, 1);
}

TEST(FullPoolEndsWithLength) {
  EngineConfig config = SmallConfig();
  config.num_pages = 10;  // 40 tokens
  Harness harness(config);
  harness.Submit(GreedyRequest(1, Prompt(1), -1));
  harness.Submit(GreedyRequest(2, Prompt(2, 39), -1));
  harness.RunToEnd();
  harness.ExpectIdle();
  for (const RequestId id : {1, 2}) {
    const Outcome& outcome = harness.outcome(id);
    EXPECT_EQ(outcome.finish_reason, FinishReason::kLength);
    EXPECT_EQ(outcome.prompt_tokens + outcome.completion_tokens, 40);
  }
}

TEST(EosEndsWithStopAndNoReason) {
  Request request = GreedyRequest(1, Prompt(1), 10);
  request.sampling.ignore_eos = false;
  const Outcome outcome = Run(request, AlwaysEos());
  EXPECT_EQ(outcome.finish_reason, FinishReason::kStop);
  EXPECT_EQ(outcome.stop_token_id, -1);
  EXPECT_EQ(outcome.stop_string, "");
  EXPECT_EQ(outcome.token_ids, (std::vector<int32_t>{kEos}));
  EXPECT_EQ(outcome.text, "");
}

TEST(IgnoreEosGoesOnThroughEos) {
  const Outcome outcome = Run(GreedyRequest(1, Prompt(1), 10), AlwaysEos());
  EXPECT_EQ(outcome.finish_reason, FinishReason::kLength);
  EXPECT_EQ(outcome.token_ids, std::vector<int32_t>(10, kEos));
  EXPECT_EQ(outcome.text, "");  // special tokens are no text
}

TEST(MinTokensMasksEosAndStopIds) {
  Request request = GreedyRequest(1, Prompt(1), 10);
  request.sampling.ignore_eos = false;
  request.sampling.min_tokens = 4;
  const Outcome masked = Run(request, AlwaysEos());
  EXPECT_EQ(masked.completion_tokens, 5);
  EXPECT_EQ(masked.token_ids[4], kEos);
  for (int32_t position = 0; position < 4; ++position) {
    EXPECT_NE(masked.token_ids[position], kEos);
  }

  const int32_t first = Run(GreedyRequest(1, Prompt(1), 10)).token_ids[0];
  request = GreedyRequest(1, Prompt(1), 10);
  request.sampling.stop_token_ids = {first};
  EXPECT_EQ(Run(request).completion_tokens, 1);
  request.sampling.min_tokens = 1;
  EXPECT_NE(Run(request).token_ids[0], first);
}

TEST(StopIdEndsAndIsReported) {
  const Outcome whole = Run(AsciiRequest(1, 10));
  Request request = AsciiRequest(1, 10);
  request.sampling.stop_token_ids = {whole.token_ids[3]};
  const size_t drawn = whole.text.find(whole.text[3]) + 1;  // where it first occurs
  Outcome outcome = Run(request);
  EXPECT_EQ(outcome.finish_reason, FinishReason::kStop);
  EXPECT_EQ(outcome.stop_token_id, whole.token_ids[3]);
  EXPECT_EQ(outcome.text, whole.text.substr(0, drawn - 1));
  EXPECT_EQ(outcome.completion_tokens, static_cast<int32_t>(drawn));
  request.sampling.include_stop_str_in_output = true;
  outcome = Run(request);
  EXPECT_EQ(outcome.text, whole.text.substr(0, drawn));
}

TEST(StopStringEndsTheTextBeforeIt) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Outcome whole = Run(AsciiRequest(seed, 30));
    const size_t begin = seed % 25;
    const std::string stop = whole.text.substr(begin, 1 + seed % 5);
    Request request = AsciiRequest(seed, 30);
    request.sampling.stop = {"\x01 never", stop};
    Outcome outcome = Run(request);
    const size_t found = whole.text.find(stop);
    EXPECT_EQ(outcome.text, whole.text.substr(0, found));
    EXPECT_EQ(outcome.finish_reason, FinishReason::kStop);
    EXPECT_EQ(outcome.stop_string, stop);
    EXPECT_EQ(outcome.completion_tokens, static_cast<int32_t>(found + stop.size()));
    request.sampling.include_stop_str_in_output = true;
    outcome = Run(request);
    EXPECT_EQ(outcome.text, whole.text.substr(0, found + stop.size()));
  }
}

TEST(HeldBackTextIsReleasedAtTheEnd) {
  const Outcome whole = Run(AsciiRequest(1, 8));
  Request request = AsciiRequest(1, 8);
  request.sampling.stop = {whole.text.substr(5) + "\x01"};  // held back until the last token
  const Outcome outcome = Run(request);
  EXPECT_EQ(outcome.text, whole.text);
  EXPECT_EQ(outcome.finish_reason, FinishReason::kLength);
}

TEST(IncompleteCharacterBecomesReplacementAtTheEnd) {
  Request request = GreedyRequest(1, Prompt(1), 3);
  request.sampling.logit_bias = {{0xe2, 100.0f}};  // first byte of three, again and again
  EXPECT_EQ(Run(request).text, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(ChoicesShareThePromptAndDifferBySeed) {
  Request request = GreedyRequest(1, Prompt(1, 40), 20);
  request.num_choices = 4;
  request.sampling.temperature = 1.5;
  Harness harness;
  harness.Submit(request);
  harness.RunToEnd();
  harness.ExpectIdle();
  for (int32_t choice = 1; choice < 4; ++choice) {
    EXPECT_NE(harness.outcome(1, choice).token_ids, harness.outcome(1, 0).token_ids);
  }
  // Greedy choices are the same, and so are those of another seed only by chance.
  request.sampling.temperature = 0.0;
  Harness greedy;
  greedy.Submit(request);
  greedy.RunToEnd();
  EXPECT_EQ(greedy.outcome(1, 3), greedy.outcome(1, 0));
}

TEST(LogprobsComeWithTheirTokens) {
  Request request = GreedyRequest(1, Prompt(1), 12);
  request.sampling.logit_bias.clear();
  request.sampling.top_logprobs = 3;
  request.sampling.stop = {"zzzzz"};
  Harness harness;
  harness.Submit(request);
  int32_t num_items = 0;
  while (harness.engine().Step() == Engine::StepOutcome::kRan) {
    for (const OutputItem& item : harness.engine().Drain()) {
      ++num_items;
      EXPECT_EQ(item.token_ids.size(), size_t{1});
      EXPECT_EQ(item.logprobs.size(), size_t{1});
      EXPECT_EQ(item.logprobs[0].token.token_id, item.token_ids[0]);
      EXPECT_EQ(item.logprobs[0].alternatives.size(), size_t{3});
      EXPECT_EQ(item.logprobs[0].alternatives[0].token_id, item.token_ids[0]);  // greedy
      EXPECT_EQ(item.logprobs[0].alternatives[0].logprob, item.logprobs[0].token.logprob);
      EXPECT_EQ(item.completion_tokens, num_items);
    }
  }
  EXPECT_EQ(num_items, 12);
}

TEST(LeadingSpaceIsDroppedWhenConfigured) {
  EngineConfig config = SmallConfig();
  config.strip_leading_space = true;
  Request request = GreedyRequest(1, Prompt(1), 2);
  request.sampling.logit_bias = {{' ', 100.0f}};
  Harness harness(config);
  harness.Submit(request);
  harness.RunToEnd();
  EXPECT_EQ(harness.outcome(1).text, " ");
  EXPECT_EQ(Run(request).text, "  ");
}

}  // namespace
}  // namespace mlc_server::testing
