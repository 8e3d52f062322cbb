// Log-probabilities of the prompt: one for each token after the first, those that the model gives
// when it is fed one token at a time, however the prompt is cut and whatever else runs.

#include <random>

#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

constexpr int32_t kAlternatives = 3;

std::vector<int32_t> RandomPrompt(uint64_t seed, int32_t length) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> prompt_ids;
  while (static_cast<int32_t>(prompt_ids.size()) < length) {
    prompt_ids.push_back(2 + static_cast<int32_t>(random() % (kVocabSize - 2)));
  }
  return prompt_ids;
}

Request ScoreRequest(RequestId id, std::vector<int32_t> prompt_ids, int32_t max_tokens = 0) {
  Request request = GreedyRequest(id, std::move(prompt_ids), max_tokens);
  request.sampling.prompt_logprobs = kAlternatives;
  return request;
}

// What a runner of its own, fed one token at a time, says of each token after the first.
std::vector<TokenLogprobs> TeacherForced(const std::vector<int32_t>& prompt_ids) {
  FakeRunner runner(SmallRunner());
  Sampler sampler(kVocabSize);
  EXPECT_FALSE(runner.AllocateKv(32).has_value());
  std::vector<TokenLogprobs> scores;
  ModelInput input;
  for (int32_t position = 0; position + 1 < static_cast<int32_t>(prompt_ids.size()); ++position) {
    input.Clear();
    input.token_ids = {prompt_ids[position]};
    input.positions = input.write_slots = {position};
    input.query_offsets = {0, 1};
    for (int32_t page = 0; page <= position / 4; ++page) {
      input.page_table.push_back(page);
    }
    input.page_offsets = {0, position / 4 + 1};
    input.logit_rows = {0};
    scores.push_back(
        sampler.Score(runner.Run(input).data, prompt_ids[position + 1], kAlternatives));
  }
  return scores;
}

void ExpectScored(const Harness& harness, RequestId id, const std::vector<int32_t>& prompt_ids) {
  const Outcome& outcome = harness.outcome(id);
  EXPECT_EQ(outcome.prompt_logprobs.size(), prompt_ids.size() - 1);
  EXPECT_TRUE(Equal(outcome.prompt_logprobs, TeacherForced(prompt_ids)));
  EXPECT_EQ(outcome.num_ends, 1);
}

TEST(PromptIsScoredAsByTeacherForcing) {
  for (const int32_t scored_rows : {1, 5, 16, 64}) {
    for (const int32_t chunk : {1, 7, 64}) {
      EngineConfig config = SmallConfig();
      config.scored_rows_max = scored_rows;
      config.prefill_chunk_size = chunk;
      Harness harness(config);
      const std::vector<int32_t> prompt_ids = RandomPrompt(1, 100);
      harness.Submit(ScoreRequest(1, prompt_ids));
      harness.RunToEnd();
      harness.ExpectIdle();
      ExpectScored(harness, 1, prompt_ids);
      EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kLength);
      EXPECT_EQ(harness.outcome(1).completion_tokens, 0);
      EXPECT_EQ(harness.outcome(1).text, "");
    }
  }
}

// What was generated, given as a prompt, has the log-probabilities it was generated with.
TEST(GeneratedTokensScoreAsTheyWereDrawn) {
  Harness harness;
  const std::vector<int32_t> prompt_ids = RandomPrompt(2, 20);
  Request request = GreedyRequest(1, prompt_ids, 40);
  request.sampling.top_logprobs = kAlternatives;
  harness.Submit(request);
  harness.RunToEnd();
  std::vector<int32_t> whole = prompt_ids;
  const Outcome& drawn = harness.outcome(1);
  whole.insert(whole.end(), drawn.token_ids.begin(), drawn.token_ids.end());
  harness.Submit(ScoreRequest(2, whole));
  harness.RunToEnd();
  std::vector<TokenLogprobs> scores = harness.outcome(2).prompt_logprobs;
  scores.erase(scores.begin(), scores.begin() + 19);
  for (TokenLogprobs& score : scores) {
    EXPECT_EQ(score.rank, 1);  // greedy
    score.rank = 0;            // draws are not ranked
  }
  EXPECT_TRUE(Equal(scores, drawn.logprobs));
}

TEST(ManyPromptsShareTheRows) {
  EngineConfig config = SmallConfig();
  config.scored_rows_max = 10;
  config.num_pages = 34;  // two more than one full context
  Harness harness(config);
  for (RequestId id = 1; id <= 40; ++id) {
    harness.Submit(ScoreRequest(id, RandomPrompt(id, 1 + static_cast<int32_t>(id * 7 % 90)), 20));
  }
  harness.RunToEnd();
  harness.ExpectIdle();
  for (RequestId id = 1; id <= 40; ++id) {
    ExpectScored(harness, id, RandomPrompt(id, 1 + static_cast<int32_t>(id * 7 % 90)));
  }
  EXPECT_GT(harness.engine().Stats().preemptions, 5);
}

TEST(RequestsThatScoreNothingPassThoseThatWaitForRows) {
  EngineConfig config = SmallConfig();
  config.scored_rows_max = 4;
  Harness harness(config);
  harness.Submit(ScoreRequest(1, RandomPrompt(1, 60)));
  harness.Submit(ScoreRequest(2, RandomPrompt(2, 60)));
  harness.Submit(GreedyRequest(3, RandomPrompt(3, 10), 2));
  harness.Step();
  EXPECT_EQ(harness.outcome(3).token_ids.size(), size_t{1});
  EXPECT_EQ(harness.outcome(1).prompt_logprobs.size(), size_t{4});
  EXPECT_TRUE(harness.outcomes().count({2, 0}) == 0);
  harness.RunToEnd();
  ExpectScored(harness, 1, RandomPrompt(1, 60));
  ExpectScored(harness, 2, RandomPrompt(2, 60));
}

TEST(OneChoiceScoresForAll) {
  for (const int32_t length : {1, 3, 50}) {  // shorter than a page, and with pages to share
    Harness harness;
    Request request = ScoreRequest(1, RandomPrompt(4, length), 5);
    request.num_choices = 4;
    harness.Submit(request);
    harness.RunToEnd();
    harness.ExpectIdle();
    ExpectScored(harness, 1, request.prompt_ids);
    for (int32_t choice = 1; choice < 4; ++choice) {
      EXPECT_TRUE(harness.outcome(1, choice).prompt_logprobs.empty());
      EXPECT_EQ(harness.outcome(1, choice).token_ids.size(), size_t{5});
    }
  }
}

// Neither penalties nor bias nor temperature enter: it is the model's own distribution.
TEST(ScoresAreOfTheRawDistribution) {
  Harness harness;
  Request request = ScoreRequest(1, RandomPrompt(5, 40), 3);
  request.sampling.temperature = 0.3;
  request.sampling.top_k = 1;
  request.sampling.repetition_penalty = 1.5;
  request.sampling.logit_bias = {{kPoison, -100.0f}, {7, 50.0f}};
  harness.Submit(request);
  harness.RunToEnd();
  ExpectScored(harness, 1, request.prompt_ids);
}

TEST(NothingIsDrawnWhenNoTokensAreWanted) {
  EngineConfig config = SmallConfig();
  config.speculative_mode = SpeculativeMode::kNgram;
  Harness harness(config);
  Request request = GreedyRequest(1, RandomPrompt(6, 128), 0);  // all of the context
  request.num_choices = 2;
  harness.Submit(request);
  harness.RunToEnd();
  harness.ExpectIdle();
  for (int32_t choice = 0; choice < 2; ++choice) {
    const Outcome& outcome = harness.outcome(1, choice);
    EXPECT_EQ(outcome.finish_reason, FinishReason::kLength);
    EXPECT_EQ(outcome.prompt_tokens, 128);
    EXPECT_TRUE(outcome.token_ids.empty() && outcome.prompt_logprobs.empty());
  }
  EXPECT_EQ(harness.engine().Stats().generated_tokens, 0);
  request.prompt_ids.push_back(5);
  const Status status = harness.engine().Submit(request);
  EXPECT_EQ(status->message, "prompt must fit 128 tokens, but the prompt has 129");
}

TEST(LogitsThatAreNotFiniteEndTheRequestThatIsScored) {
  Harness harness;
  std::vector<int32_t> poisoned = RandomPrompt(7, 90);
  poisoned[50] = kPoison;
  harness.Submit(ScoreRequest(1, poisoned));
  harness.Submit(ScoreRequest(2, RandomPrompt(8, 90)));
  harness.RunToEnd();
  harness.ExpectIdle();
  EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kError);
  EXPECT_EQ(harness.outcome(1).error, "the model produced logits that are not finite");
  ExpectScored(harness, 2, RandomPrompt(8, 90));
}

TEST(CancellingWhileScoringFreesEverything) {
  EngineConfig config = SmallConfig();
  config.scored_rows_max = 4;
  Harness harness(config);
  harness.Submit(ScoreRequest(1, RandomPrompt(9, 90)));
  harness.Submit(ScoreRequest(2, RandomPrompt(10, 90)));
  harness.Step();
  harness.engine().Cancel(1);
  harness.RunToEnd();
  harness.ExpectIdle();
  EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kCancelled);
  ExpectScored(harness, 2, RandomPrompt(10, 90));
}

// News of several steps that nobody has read becomes one item with everything in order.
TEST(UnreadScoresAreMergedInOrder) {
  EngineConfig config = SmallConfig();
  config.scored_rows_max = 4;
  Harness harness(config);
  const std::vector<int32_t> prompt_ids = RandomPrompt(11, 60);
  harness.Submit(ScoreRequest(1, prompt_ids, 3));
  while (harness.engine().Step() == Engine::StepOutcome::kRan) {
  }
  const std::vector<OutputItem> items = harness.engine().Drain();
  EXPECT_EQ(items.size(), size_t{1});
  EXPECT_TRUE(Equal(items[0].prompt_logprobs, TeacherForced(prompt_ids)));
  EXPECT_EQ(items[0].token_ids.size(), size_t{3});
}

}  // namespace
}  // namespace mlc_server::testing
