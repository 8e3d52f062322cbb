#include "harness.h"

#include <algorithm>
#include <chrono>
#include <ostream>
#include <random>

#include "support/cpp_test.h"

namespace mlc_server::testing {

void Outcome::Add(const OutputItem& item) {
  EXPECT_EQ(num_ends, 0);  // nothing is reported after the end
  text += item.text;
  token_ids.insert(token_ids.end(), item.token_ids.begin(), item.token_ids.end());
  logprobs.insert(logprobs.end(), item.logprobs.begin(), item.logprobs.end());
  // The prompt's come before the output's first token or with it, and from one choice.
  EXPECT_TRUE(item.prompt_logprobs.empty() ||
              (item.choice == 0 && token_ids.size() == item.token_ids.size()));
  prompt_logprobs.insert(prompt_logprobs.end(), item.prompt_logprobs.begin(),
                         item.prompt_logprobs.end());
  finish_reason = item.finish_reason;
  stop_token_id = item.stop_token_id;
  stop_string = item.stop_string;
  error = item.error;
  prompt_tokens = item.prompt_tokens;
  completion_tokens = item.completion_tokens;
  num_ends += item.finish_reason == FinishReason::kNone ? 0 : 1;
  // The token at which a choice failed is counted, but may not have been reported.
  const auto num_reported = static_cast<int32_t>(token_ids.size());
  EXPECT_GE(completion_tokens, num_reported);
  EXPECT_LE(completion_tokens - num_reported, finish_reason == FinishReason::kError ? 1 : 0);
  EXPECT_TRUE(logprobs.empty() || logprobs.size() == token_ids.size());
}

static bool Equal(const TokenLogprob& a, const TokenLogprob& b) {
  return a.token_id == b.token_id && a.logprob == b.logprob;
}

static bool Equal(const TokenLogprobs& a, const TokenLogprobs& b) {
  return Equal(a.token, b.token) && a.rank == b.rank &&
         std::equal(a.alternatives.begin(), a.alternatives.end(), b.alternatives.begin(),
                    b.alternatives.end(),
                    [](const TokenLogprob& x, const TokenLogprob& y) { return Equal(x, y); });
}

bool Equal(const std::vector<TokenLogprobs>& a, const std::vector<TokenLogprobs>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const TokenLogprobs& x, const TokenLogprobs& y) { return Equal(x, y); });
}

bool operator==(const Outcome& a, const Outcome& b) {
  return a.text == b.text && a.token_ids == b.token_ids && Equal(a.logprobs, b.logprobs) &&
         Equal(a.prompt_logprobs, b.prompt_logprobs) && a.finish_reason == b.finish_reason &&
         a.stop_token_id == b.stop_token_id && a.stop_string == b.stop_string &&
         a.error == b.error && a.prompt_tokens == b.prompt_tokens &&
         a.completion_tokens == b.completion_tokens;
}

std::ostream& operator<<(std::ostream& out, const Outcome& outcome) {
  return out << "{" << FinishReasonName(outcome.finish_reason) << " \"" << outcome.text << "\" "
             << Show(outcome.token_ids) << " stop " << outcome.stop_token_id << " \""
             << outcome.stop_string << "\" " << outcome.error << "}";
}

std::shared_ptr<const Vocabulary> MakeVocabulary() {
  std::vector<std::string> token_bytes;
  std::vector<bool> is_special(kVocabSize, false);
  for (int32_t id = 0; id < kVocabSize; ++id) {
    token_bytes.push_back(std::string(1, static_cast<char>(id)));
  }
  is_special[kEos] = true;
  return std::make_shared<const Vocabulary>(token_bytes, is_special);
}

EngineConfig SmallConfig() {
  EngineConfig config;
  config.max_batch_size = 16;
  config.prefill_chunk_size = 64;
  config.max_sequence_length = 128;
  config.page_size = 4;
  config.num_pages = 1024;
  config.max_queue_size = 4096;
  config.vocab_size = kVocabSize;
  config.eos_token_ids = {kEos};
  config.check_every_step = true;
  return config;
}

FakeRunnerOptions SmallRunner() {
  FakeRunnerOptions options;
  options.vocab_size = kVocabSize;
  options.page_size = 4;
  options.context_window = 128;
  options.eos_token_id = kEos;
  options.eos_probability = 0.02;
  options.poison_token_id = kPoison;
  return options;
}

Harness::Harness(const EngineConfig& config, const FakeRunnerOptions& options,
                 std::shared_ptr<const Clock> clock)
    : runner_(std::make_shared<FakeRunner>(options)) {
  auto engine = Engine::Create(runner_, MakeVocabulary(), config, std::move(clock));
  if (!engine.ok()) {
    Fail(__FILE__, __LINE__, engine.error().param + ": " + engine.error().message);
  }
  engine_ = std::move(engine).value();
}

void Harness::Submit(const Request& request) {
  const Status status = engine_->Submit(request);
  if (status) {
    Fail(__FILE__, __LINE__, status->param + ": " + status->message);
  }
}

Engine::StepOutcome Harness::Step() {
  const Engine::StepOutcome outcome = engine_->Step();
  for (const OutputItem& item : engine_->Drain()) {
    outcomes_[{item.request_id, item.choice}].Add(item);
  }
  return outcome;
}

void Harness::RunToEnd(int64_t max_steps) {
  for (int64_t step = 0; step < max_steps; ++step) {
    const Engine::StepOutcome outcome = Step();
    if (outcome == Engine::StepOutcome::kEnded ||
        (outcome == Engine::StepOutcome::kIdle && engine_->Stats().num_open == 0)) {
      return;
    }
    if (outcome == Engine::StepOutcome::kIdle) {
      engine_->WaitForWork(std::chrono::milliseconds(100));  // for grammars
    }
  }
  Fail(__FILE__, __LINE__, "still busy after " + std::to_string(max_steps) + " steps");
}

const Outcome& Harness::outcome(RequestId request_id, int32_t choice) const {
  const auto found = outcomes_.find({request_id, choice});
  if (found == outcomes_.end()) {
    Fail(__FILE__, __LINE__, "nothing was reported of request " + std::to_string(request_id));
  }
  return found->second;
}

void Harness::ExpectIdle() {
  engine_->CheckIntegrity();
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.free_pages, stats.total_pages);
  EXPECT_EQ(stats.num_open, 0);
  EXPECT_EQ(stats.num_waiting, 0);
  EXPECT_EQ(stats.num_running, 0);
}

Request GreedyRequest(RequestId id, std::vector<int32_t> prompt_ids, int32_t max_tokens) {
  Request request;
  request.id = id;
  request.prompt_ids = std::move(prompt_ids);
  request.sampling.temperature = 0.0;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  request.sampling.logit_bias = {{kPoison, -100.0f}};
  return request;
}

std::vector<Request> RandomRequests(uint64_t seed, int32_t count) {
  std::mt19937_64 random(seed);
  std::mt19937_64 scoring(seed + 1);
  const auto below = [&](int32_t limit) { return static_cast<int32_t>(random() % limit); };
  std::vector<Request> requests;
  for (int32_t idx = 0; idx < count; ++idx) {
    Request request = GreedyRequest(static_cast<RequestId>(idx) + 1, {}, 1 + below(30));
    const int32_t prompt_length = 1 + below(below(8) == 0 ? 80 : 20);
    for (int32_t position = 0; position < prompt_length; ++position) {
      request.prompt_ids.push_back(2 + below(kVocabSize - 2));
    }
    SamplingParams& sampling = request.sampling;
    sampling.seed = random();
    sampling.ignore_eos = below(4) == 0;
    sampling.temperature = below(3) == 0 ? 0.0 : 0.1 * (1 + below(20));
    sampling.top_p = below(2) == 0 ? 1.0 : 0.5 + 0.01 * below(50);
    sampling.top_k = below(2) == 0 ? 0 : 1 + below(50);
    sampling.min_p = below(4) == 0 ? 0.05 : 0.0;
    sampling.repetition_penalty = below(3) == 0 ? 1.2 : 1.0;
    sampling.presence_penalty = below(3) == 0 ? 0.5 : 0.0;
    sampling.frequency_penalty = below(3) == 0 ? 0.25 : 0.0;
    sampling.min_tokens = below(3) == 0 ? below(sampling.max_tokens) : 0;
    sampling.top_logprobs = below(4) - 1;
    sampling.prompt_logprobs = scoring() % 3 == 0 ? static_cast<int32_t>(scoring() % 4) : -1;
    sampling.max_tokens = below(10) == 0 ? -1 : sampling.max_tokens;
    if (below(3) == 0) {
      sampling.stop = {std::string(1, static_cast<char>('a' + below(26))), "xy", "\xc3\xa9"};
    }
    if (below(3) == 0) {
      sampling.stop_token_ids = {40 + below(20), 200 + below(20)};
    }
    request.num_choices = below(4) == 0 ? 1 + below(4) : 1;
    request.priority = below(3) - 1;
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace mlc_server::testing
