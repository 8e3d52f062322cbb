// Requests with a grammar, on grammars made up here: llguidance needs a Python process.

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

// Outputs of `length` lower-case letters in ascending order, equal ones included; the output may
// end from `least` on. Fails at its `fail_at`-th token.
struct Ascending {
  int32_t least = 0;
  int32_t length = 10;
  int32_t fail_at = -1;
};

class AscendingMatcher : public GrammarMatcher {
 public:
  explicit AscendingMatcher(Ascending rules) : rules_(rules), mask_(kVocabSize / 32) {}

  Result<const uint32_t*> AllowedTokens() override {
    mask_.assign(mask_.size(), 0);
    for (int32_t id = last_; id <= 'z' && count_ < rules_.length; ++id) {
      Allow(id);
    }
    if (count_ >= rules_.least) {
      Allow(kEos);
    }
    return static_cast<const uint32_t*>(mask_.data());
  }

  Status Consume(int32_t token_id) override {
    if (count_ == rules_.fail_at || token_id < last_ || token_id > 'z') {
      return Error{ErrorCode::kInvalidValue, "", "out of fuel"};
    }
    last_ = token_id;
    ++count_;
    return std::nullopt;
  }

  bool IsComplete() const override { return count_ == rules_.length; }
  void Cancel() override {}

 private:
  void Allow(int32_t id) { mask_[id / 32] |= 1u << (id % 32); }

  Ascending rules_;
  std::vector<uint32_t> mask_;
  int32_t last_ = 'a';
  int32_t count_ = 0;
};

class AscendingGrammar : public Grammar {
 public:
  explicit AscendingGrammar(Ascending rules) : rules_(rules) {}
  std::unique_ptr<GrammarMatcher> NewMatcher() const override {
    return std::make_unique<AscendingMatcher>(rules_);
  }

 private:
  Ascending rules_;
};

// Asked for the next tokens, works until it is let go or cancelled.
struct Gate {
  bool works = false;  // rather than sleeps
  std::atomic<bool> is_open{false};
  std::atomic<int32_t> num_cancelled{0};
};

class GatedMatcher : public AscendingMatcher {
 public:
  GatedMatcher(Ascending rules, std::shared_ptr<Gate> gate)
      : AscendingMatcher(rules), gate_(std::move(gate)) {}

  Result<const uint32_t*> AllowedTokens() override {
    while (!gate_->is_open) {
      if (cancelled_) {
        return Error{ErrorCode::kInvalidValue, "", "cancelled"};
      }
      if (!gate_->works) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
    return AscendingMatcher::AllowedTokens();
  }

  void Cancel() override { gate_->num_cancelled += cancelled_.exchange(true) ? 0 : 1; }

 private:
  std::shared_ptr<Gate> gate_;
  std::atomic<bool> cancelled_{false};
};

class GatedGrammar : public Grammar {
 public:
  GatedGrammar(Ascending rules, std::shared_ptr<Gate> gate)
      : rules_(rules), gate_(std::move(gate)) {}
  std::unique_ptr<GrammarMatcher> NewMatcher() const override {
    return std::make_unique<GatedMatcher>(rules_, gate_);
  }

 private:
  Ascending rules_;
  std::shared_ptr<Gate> gate_;
};

// Takes a while for some tokens, so that masks are late now and then.
class HesitantMatcher : public AscendingMatcher {
 public:
  using AscendingMatcher::AscendingMatcher;

  Result<const uint32_t*> AllowedTokens() override {
    std::this_thread::sleep_for(std::chrono::microseconds(++num_calls_ % 3 == 0 ? 1500 : 0));
    return AscendingMatcher::AllowedTokens();
  }
  Status Consume(int32_t token_id) override {
    std::this_thread::sleep_for(std::chrono::microseconds(num_calls_ % 4 == 0 ? 700 : 0));
    return AscendingMatcher::Consume(token_id);
  }

 private:
  int32_t num_calls_ = 0;
};

class HesitantGrammar : public Grammar {
 public:
  explicit HesitantGrammar(Ascending rules) : rules_(rules) {}
  std::unique_ptr<GrammarMatcher> NewMatcher() const override {
    return std::make_unique<HesitantMatcher>(rules_);
  }

 private:
  Ascending rules_;
};

Request GrammarRequest(RequestId id, Ascending rules) {
  Request request;
  request.id = id;
  request.prompt_ids = {5, 6, 7};
  request.sampling.seed = id;
  request.sampling.max_tokens = 40;
  request.grammar = std::make_shared<AscendingGrammar>(rules);
  return request;
}

void ExpectMatch(const Outcome& outcome, size_t length) {
  EXPECT_EQ(outcome.text.size(), length);
  char last = 'a';
  for (const char letter : outcome.text) {
    EXPECT_TRUE(letter >= last && letter <= 'z');
    last = letter;
  }
}

TEST(ACompletedGrammarEndsWithStopAndNoFurtherToken) {
  Harness harness;
  Ascending rules;
  rules.least = 10;
  Request request = GrammarRequest(1, rules);
  request.num_choices = 3;
  request.sampling.top_logprobs = 2;
  harness.Submit(request);
  harness.RunToEnd();
  for (int32_t choice = 0; choice < 3; ++choice) {
    const Outcome& outcome = harness.outcome(1, choice);
    EXPECT_EQ(outcome.finish_reason, FinishReason::kStop);
    EXPECT_EQ(outcome.completion_tokens, 10);
    EXPECT_EQ(outcome.logprobs.size(), static_cast<size_t>(10));
    ExpectMatch(outcome, 10);
  }
  EXPECT_TRUE(harness.outcome(1, 0).text != harness.outcome(1, 1).text);
  harness.ExpectIdle();
}

TEST(EosEndsWhereTheGrammarAllowsItAlsoUnderIgnoreEos) {
  for (const bool ignore_eos : {false, true}) {
    FakeRunnerOptions options = SmallRunner();
    options.eos_probability = 1.0;
    Harness harness(SmallConfig(), options);
    Ascending rules;
    rules.least = 4;
    rules.length = 1000;
    Request request = GrammarRequest(1, rules);
    request.sampling.temperature = 0.0;
    request.sampling.ignore_eos = ignore_eos;
    harness.Submit(request);
    harness.RunToEnd();
    EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kStop);
    ExpectMatch(harness.outcome(1), 4);
    EXPECT_EQ(harness.outcome(1).token_ids.back(), kEos);
  }
}

TEST(MaxTokensAndStopStringsStillEndIt) {
  Harness harness;
  Request request = GrammarRequest(1, {});
  request.sampling.max_tokens = 2;
  request.sampling.min_tokens = 2;
  harness.Submit(request);
  harness.RunToEnd();
  EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kLength);
  Request stopped = GrammarRequest(2, {});
  stopped.sampling.min_tokens = 5;
  for (char letter = 'a'; letter <= 'z'; ++letter) {
    stopped.sampling.stop.push_back(std::string(1, letter));
    if (stopped.sampling.stop.size() == 16) {
      break;
    }
  }
  stopped.sampling.logit_bias = {{'c', 100.0f}};
  harness.Submit(stopped);
  harness.RunToEnd();
  EXPECT_EQ(harness.outcome(2).finish_reason, FinishReason::kStop);
  EXPECT_EQ(harness.outcome(2).stop_string, std::string("c"));
}

TEST(AFailedGrammarEndsItsRequestOnly) {
  Harness harness;
  Ascending rules;
  rules.least = 10;
  harness.Submit(GrammarRequest(1, rules));
  rules.fail_at = 3;
  Request failing = GrammarRequest(2, rules);
  failing.num_choices = 2;
  harness.Submit(failing);
  harness.RunToEnd();
  ExpectMatch(harness.outcome(1), 10);
  for (int32_t choice = 0; choice < 2; ++choice) {
    const Outcome& outcome = harness.outcome(2, choice);
    EXPECT_EQ(outcome.finish_reason, FinishReason::kError);
    EXPECT_EQ(outcome.num_ends, 1);
    EXPECT_TRUE(outcome.error.find("out of fuel") != std::string::npos);
  }
  EXPECT_EQ(harness.engine().Health(), std::string("ok"));
  harness.ExpectIdle();
}

TEST(GuessingAheadChangesNoToken) {
  Ascending rules;
  rules.least = 60;
  rules.length = 60;  // of 26 letters in order: most repeat the one before
  std::vector<Outcome> outcomes;
  for (const SpeculativeMode mode : {SpeculativeMode::kDisable, SpeculativeMode::kNgram}) {
    EngineConfig config = SmallConfig();
    config.speculative_mode = mode;
    Harness harness(config);
    for (RequestId id = 1; id <= 4; ++id) {
      Request request = GrammarRequest(id, rules);
      request.sampling.max_tokens = 60;
      harness.Submit(request);
    }
    harness.RunToEnd();
    for (RequestId id = 1; id <= 4; ++id) {
      outcomes.push_back(harness.outcome(id));
      ExpectMatch(outcomes.back(), 60);
    }
    EXPECT_EQ(mode == SpeculativeMode::kNgram, harness.engine().Stats().accepted_tokens > 0);
  }
  for (size_t index = 0; index < 4; ++index) {
    EXPECT_EQ(outcomes[index], outcomes[index + 4]);
  }
}

TEST(AGrammarThatIsNotReadyHoldsUpNobodyElse) {
  const auto gate = std::make_shared<Gate>();
  Harness harness;
  Ascending rules;
  rules.least = 10;
  Request waiting = GrammarRequest(1, rules);
  waiting.grammar = std::make_shared<GatedGrammar>(rules, gate);
  waiting.num_choices = 2;
  harness.Submit(waiting);
  harness.Submit(GreedyRequest(2, {5, 6}, 30));
  harness.Submit(GrammarRequest(3, rules));
  harness.Step();
  for (int32_t step = 0; step < 2000 && harness.engine().Stats().num_open > 1; ++step) {
    harness.Step();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    gate->is_open = step == 1999;  // the test has failed then, but ends
  }
  EXPECT_EQ(harness.outcome(2).finish_reason, FinishReason::kLength);
  ExpectMatch(harness.outcome(3), 10);
  EXPECT_EQ(harness.engine().Stats().num_open, 1);
  gate->is_open = true;
  harness.RunToEnd();
  Harness alone;
  waiting.grammar = std::make_shared<AscendingGrammar>(rules);
  alone.Submit(waiting);
  alone.RunToEnd();
  for (int32_t choice = 0; choice < 2; ++choice) {
    EXPECT_EQ(harness.outcome(1, choice), alone.outcome(1, choice));
  }
  harness.ExpectIdle();
}

TEST(AGrammarThatTakesTooLongIsCancelledAndEndsItsRequestOnly) {
  const auto gate = std::make_shared<Gate>();
  gate->works = true;
  Harness harness;
  Ascending rules;
  rules.least = 10;
  Request hostile = GrammarRequest(1, rules);
  hostile.grammar = std::make_shared<GatedGrammar>(rules, gate);
  harness.Submit(hostile);
  harness.Submit(GrammarRequest(2, rules));
  harness.RunToEnd();
  EXPECT_EQ(gate->num_cancelled, 1);
  EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kError);
  EXPECT_TRUE(harness.outcome(1).error.find("longer than 100 ms") != std::string::npos);
  ExpectMatch(harness.outcome(2), 10);
  EXPECT_TRUE(hostile.grammar->is_slow());
  harness.ExpectIdle();
}

TEST(ACancelledRequestEndsTheWorkOnItsGrammar) {
  const auto gate = std::make_shared<Gate>();
  {
    Harness harness;
    Request request = GrammarRequest(1, {});
    request.grammar = std::make_shared<GatedGrammar>(Ascending(), gate);
    request.num_choices = 8;  // more than there are threads
    harness.Submit(request);
    for (int32_t step = 0; step < 20; ++step) {
      harness.Step();
    }
    harness.engine().Cancel(1);
    harness.RunToEnd();
    EXPECT_EQ(harness.outcome(1).finish_reason, FinishReason::kCancelled);
    harness.ExpectIdle();
    harness.Submit(GrammarRequest(2, {}));
    harness.RunToEnd();
    EXPECT_EQ(harness.outcome(2).num_ends, 1);
    request.id = 3;
    harness.Submit(request);
    harness.Step();
  }  // nor does the end of the engine wait for it
  EXPECT_TRUE(gate->num_cancelled >= 1);
}

TEST(LateMasksChangeNoToken) {
  for (const SpeculativeMode mode : {SpeculativeMode::kDisable, SpeculativeMode::kNgram}) {
    EngineConfig config = SmallConfig();
    config.speculative_mode = mode;
    Ascending rules;
    rules.least = 20;
    rules.length = 30;
    Harness prompt(config);
    Harness late(config);
    for (RequestId id = 1; id <= 6; ++id) {
      Request request = GrammarRequest(id, rules);
      request.num_choices = 2;
      request.sampling.max_tokens = id % 2 == 0 ? 25 : 40;
      prompt.Submit(request);
      request.grammar = std::make_shared<HesitantGrammar>(rules);
      late.Submit(request);
    }
    prompt.RunToEnd();
    late.RunToEnd();
    for (const auto& [key, outcome] : prompt.outcomes()) {
      EXPECT_EQ(late.outcome(key.first, key.second), outcome);
    }
    EXPECT_GT(late.engine().Stats().num_steps, prompt.engine().Stats().num_steps);
    late.ExpectIdle();
  }
}

TEST(PreemptionKeepsTheMatchersPlace) {
  Ascending rules;
  rules.least = 30;
  rules.length = 30;
  std::vector<Outcome> alone;
  for (RequestId id = 1; id <= 6; ++id) {
    Harness harness;
    harness.Submit(GrammarRequest(id, rules));
    harness.RunToEnd();
    alone.push_back(harness.outcome(id));
  }
  EngineConfig config = SmallConfig();
  config.max_sequence_length = 40;
  config.num_pages = 20;  // 4 tokens each: two of the six fit to their end
  Harness harness(config);
  for (RequestId id = 1; id <= 6; ++id) {
    harness.Submit(GrammarRequest(id, rules));
  }
  harness.RunToEnd();
  EXPECT_TRUE(harness.engine().Stats().preemptions > 0);
  for (RequestId id = 1; id <= 6; ++id) {
    EXPECT_EQ(harness.outcome(id), alone[id - 1]);
    ExpectMatch(harness.outcome(id), 30);
  }
  harness.ExpectIdle();
}

}  // namespace
}  // namespace mlc_server::testing
