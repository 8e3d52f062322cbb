// Guessing tokens ahead changes how many steps it takes, and nothing else.

#include <atomic>
#include <cmath>
#include <random>

#include "core/limits.h"
#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

constexpr int32_t kNumRequests = 600;

// Text that often copies itself, so that guesses are right now and then.
FakeRunnerOptions CopyingRunner() {
  FakeRunnerOptions options = SmallRunner();
  options.copy_probability = 0.9;
  return options;
}

EngineConfig Speculating() {
  EngineConfig config = SmallConfig();
  config.speculative_mode = SpeculativeMode::kNgram;
  config.ngram_min = 1;
  config.speculative_rows_max = 64;
  return config;
}

// Moves on whenever it is looked at, so that steps take equally long whatever their rows, and
// guesses cost nothing.
class TickingClock : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_ += 1000; }

 private:
  mutable std::atomic<int64_t> now_ns_{0};
};

std::shared_ptr<const Clock> EqualSteps() { return std::make_shared<TickingClock>(); }

// Each request alone, without guesses.
const Outcomes& ReferenceOutcomes() {
  static const Outcomes* reference = [] {
    Harness harness(SmallConfig(), CopyingRunner());
    for (const Request& request : RandomRequests(9, kNumRequests)) {
      harness.Submit(request);
      harness.RunToEnd();
    }
    EXPECT_EQ(harness.engine().Stats().drafted_tokens, 0);
    return new Outcomes(harness.outcomes());
  }();
  return *reference;
}

void ExpectReference(const Outcomes& outcomes) {
  EXPECT_EQ(outcomes.size(), ReferenceOutcomes().size());
  for (const auto& [key, outcome] : outcomes) {
    EXPECT_EQ(outcome, ReferenceOutcomes().at(key));
  }
}

EngineStats RunAllAtOnce(Harness* harness) {
  for (const Request& request : RandomRequests(9, kNumRequests)) {
    harness->Submit(request);
  }
  harness->RunToEnd();
  harness->ExpectIdle();
  ExpectReference(harness->outcomes());
  const EngineStats stats = harness->engine().Stats();
  EXPECT_LE(stats.accepted_tokens, stats.drafted_tokens);
  return stats;
}

TEST(GuessesChangeNothingOfARequestAlone) {
  Harness plain(SmallConfig(), CopyingRunner());
  Harness guessing(Speculating(), CopyingRunner(), EqualSteps());
  for (const Request& request : RandomRequests(9, kNumRequests)) {
    for (Harness* harness : {&plain, &guessing}) {
      harness->Submit(request);
      harness->RunToEnd();
      harness->ExpectIdle();
    }
  }
  ExpectReference(plain.outcomes());
  ExpectReference(guessing.outcomes());
  const EngineStats stats = guessing.engine().Stats();
  EXPECT_GT(stats.accepted_tokens, 1000);
  EXPECT_GT(stats.drafted_tokens - stats.accepted_tokens, 500);  // wrong ones are met, too
  EXPECT_EQ(stats.generated_tokens, plain.engine().Stats().generated_tokens);
  EXPECT_LT(stats.num_steps, plain.engine().Stats().num_steps);
}

TEST(GuessesChangeNothingInABatch) {
  Harness harness(Speculating(), CopyingRunner(), EqualSteps());
  EXPECT_GT(RunAllAtOnce(&harness).accepted_tokens, 500);
}

TEST(GuessesChangeNothingWhateverTheirNumber) {
  for (const int32_t drafts : {1, 2, 7, kMaxDraftTokens}) {
    EngineConfig config = Speculating();
    config.draft_tokens_max = drafts;
    Harness harness(config, CopyingRunner(), EqualSteps());
    EXPECT_GT(RunAllAtOnce(&harness).accepted_tokens, 500);
  }
}

TEST(GuessesChangeNothingInTinySteps) {
  for (const int32_t chunk : {1, 2, 3, 5, 17}) {
    EngineConfig config = Speculating();
    config.prefill_chunk_size = chunk;
    Harness harness(config, CopyingRunner(), EqualSteps());
    EXPECT_EQ(RunAllAtOnce(&harness).drafted_tokens > 0, chunk > 1);
  }
}

TEST(GuessesChangeNothingUnderPreemption) {
  for (const int32_t num_pages : {32, 40, 64}) {  // 32 pages: one full context
    EngineConfig config = Speculating();
    config.num_pages = num_pages;
    Harness harness(config, CopyingRunner(), EqualSteps());
    const EngineStats stats = RunAllAtOnce(&harness);
    EXPECT_GT(stats.preemptions, 50);
    EXPECT_GT(stats.accepted_tokens, 100);
  }
}

TEST(GuessesChangeNothingUnderAllocationFaults) {
  EngineConfig config = Speculating();
  config.num_pages = 64;
  Harness harness(config, CopyingRunner(), EqualSteps());
  std::mt19937_64 random(3);
  harness.engine().page_pool()->SetAllocationFault([&](int32_t) { return random() % 8 == 0; });
  EXPECT_GT(RunAllAtOnce(&harness).accepted_tokens, 100);
}

TEST(GuessesChangeNothingUnderArrivalsAndCancellations) {
  std::mt19937_64 random(4);
  EngineConfig config = Speculating();
  config.num_pages = 80;
  Harness harness(config, CopyingRunner(), EqualSteps());
  for (Request request : RandomRequests(9, kNumRequests)) {
    harness.Submit(request);
    request.id += 1'000'000;  // a twin that is cancelled at some time
    harness.Submit(request);
    for (uint64_t steps = random() % 4; steps > 0; --steps) {
      harness.Step();
    }
    harness.engine().Cancel(request.id - random() % 20);
  }
  harness.RunToEnd();
  harness.ExpectIdle();
  Outcomes kept;
  for (const auto& [key, outcome] : harness.outcomes()) {
    if (key.first < 1'000'000) {
      kept[key] = outcome;
    }
  }
  ExpectReference(kept);
}

TEST(LargeBatchesAreNotGuessed) {
  EngineConfig config = Speculating();
  config.speculative_rows_max = 4;
  Harness harness(config, CopyingRunner(), EqualSteps());
  for (RequestId id = 1; id <= 8; ++id) {
    harness.Submit(GreedyRequest(id, {5, 6, 7, 5, 6, 7, 5, 6}, 30));
  }
  harness.RunToEnd();
  EXPECT_EQ(harness.engine().Stats().drafted_tokens, 0);
}

// Gives a FakeRunner's logits, but none that are finite from one position on.
class FailingRunner : public ModelRunner {
 public:
  explicit FailingRunner(int32_t first_bad) : runner_(CopyingRunner()), first_bad_(first_bad) {}
  const ModelInfo& info() const override { return runner_.info(); }
  Status AllocateKv(int32_t num_pages) override { return runner_.AllocateKv(num_pages); }
  LogitsView Run(const ModelInput& input) override {
    const LogitsView view = runner_.Run(input);
    logits_.assign(view.data, view.data + int64_t{view.rows} * view.vocab_size);
    for (size_t index = 0; index < input.logit_rows.size(); ++index) {
      if (input.positions[input.logit_rows[index]] >= first_bad_) {
        logits_[index * view.vocab_size] = std::nanf("");
      }
    }
    return {logits_.data(), view.rows, view.vocab_size};
  }

 private:
  FakeRunner runner_;
  int32_t first_bad_;
  std::vector<float> logits_;
};

// What was right before the failure is reported, and no more, as without guesses.
TEST(FailureAmongGuessesComesInItsTurn) {
  Request request = GreedyRequest(1, {5, 6, 7, 5, 6, 7, 5, 6}, 60);
  for (int32_t id = 10; id < kVocabSize; ++id) {  // few different tokens: much to copy
    request.sampling.logit_bias.push_back({id, -100.0f});
  }
  int64_t num_accepted = 0;
  for (int32_t first_bad = 9; first_bad < 40; ++first_bad) {
    Outcome outcomes[2];
    for (const bool speculates : {false, true}) {
      auto engine = Engine::Create(std::make_shared<FailingRunner>(first_bad), MakeVocabulary(),
                                   speculates ? Speculating() : SmallConfig(), EqualSteps());
      EXPECT_FALSE(engine.value()->Submit(request).has_value());
      while (engine.value()->Step() == Engine::StepOutcome::kRan) {
      }
      for (const OutputItem& item : engine.value()->Drain()) {
        outcomes[speculates].Add(item);
      }
      num_accepted += engine.value()->Stats().accepted_tokens;
    }
    EXPECT_EQ(outcomes[1].error, "the model produced logits that are not finite");
    EXPECT_EQ(outcomes[1].completion_tokens, first_bad - 7);
    EXPECT_EQ(outcomes[0], outcomes[1]);
  }
  EXPECT_GT(num_accepted, 100);
}

}  // namespace
}  // namespace mlc_server::testing
