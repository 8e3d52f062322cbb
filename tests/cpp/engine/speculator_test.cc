// Guessing pays for itself: it goes on where guesses are right and nearly stops where they are not.

#include "engine/speculator.h"

#include <cmath>
#include <random>

#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

constexpr int32_t kRowsMax = 8;

// A machine on which each row after the first costs as much as `row_cost` steps.
StepCosts Machine(double row_cost) {
  StepCosts costs(kRowsMax);
  for (int32_t round = 0; round < 100; ++round) {
    for (int32_t rows = 1; rows <= kRowsMax; ++rows) {
      costs.Note(rows, std::llround(1e6 * (1 + row_cost * (rows - 1))));
    }
  }
  return costs;
}

struct Outcome {
  int32_t num_steps = 0;
  int32_t num_guessed = 0;  // steps with guesses
  double time = 0;          // in steps without
  int32_t num_tokens = 0;

  double gain() const { return num_tokens / time; }
};

// Until `num_tokens` have come of a text that always offers guesses, each right with `probability`.
Outcome Run(double row_cost, double probability, int32_t num_tokens, uint64_t seed = 1) {
  const StepCosts costs = Machine(row_cost);
  const std::vector<int32_t> repetitive(100, 7);
  std::mt19937_64 random(seed);
  std::bernoulli_distribution is_right(probability);
  Speculator speculator{EngineConfig()};
  std::vector<int32_t> drafts;
  Outcome outcome;
  while (outcome.num_tokens < num_tokens) {
    speculator.Propose(repetitive, 7, 1, costs, &drafts);
    const auto num_drafts = static_cast<int32_t>(drafts.size());
    int32_t num_right = 0;
    while (num_right < num_drafts && is_right(random)) {
      ++num_right;
    }
    const double draft_cost = num_drafts > 0 ? costs.CostOfMore(1, num_drafts) / num_drafts : 0;
    speculator.NoteStep(num_drafts, num_right, draft_cost);
    ++outcome.num_steps;
    outcome.num_guessed += num_drafts > 0 ? 1 : 0;
    outcome.num_tokens += 1 + num_right;
    outcome.time += 1 + row_cost * num_drafts;
  }
  return outcome;
}

TEST(RightGuessesGoOnAsFarAsTheyCan) {
  const Outcome cheap = Run(0.05, 1, 1000);
  EXPECT_LE(cheap.num_steps, 1000 / 8 + 10);
  EXPECT_GT(Run(0.25, 1, 1000).gain(), 2.7);  // 8 tokens for 2.75 at best
  EXPECT_GT(Run(0.5, 1, 1000).gain(), 1.7);   // 8 for 4.5
}

TEST(WrongGuessesCostNextToNothing) {
  for (const double row_cost : {0.02, 0.1, 0.25, 0.5, 0.9}) {
    const Outcome outcome = Run(row_cost, 0, 3000);
    EXPECT_GT(outcome.gain(), 0.985);
    EXPECT_GT(outcome.num_guessed, 10);  // it has not given up
    EXPECT_GT(Run(row_cost, 0, 100).gain(), 0.98);
  }
}

TEST(NoTextIsMuchSlowerForBeingGuessed) {
  for (const double row_cost : {0.02, 0.1, 0.25, 0.5, 0.9}) {
    for (const double probability : {0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9}) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        EXPECT_GT(Run(row_cost, probability, 500, seed).gain(), 0.98);
      }
    }
  }
}

TEST(GuessesGoAsFarAsTheyPay) {
  // Right four times out of five, where a row costs half a step: two or three guesses are best.
  EXPECT_GT(Run(0.5, 0.8, 2000).gain(), 1.1);
  EXPECT_GT(Run(0.1, 0.8, 2000).gain(), 2);
}

TEST(GuessingStartsAgainWhenItPays) {
  const StepCosts costs = Machine(0.25);
  const std::vector<int32_t> repetitive(100, 7);
  Speculator speculator{EngineConfig()};
  std::vector<int32_t> drafts;
  const auto step = [&](bool right) {
    speculator.Propose(repetitive, 7, 1, costs, &drafts);
    const auto count = static_cast<int32_t>(drafts.size());
    speculator.NoteStep(count, right ? count : 0, 0.25);
    return count;
  };
  for (int32_t i = 0; i < 500; ++i) {
    step(false);
  }
  int32_t num_guesses = 0;
  for (int32_t i = 0; i < 60; ++i) {
    num_guesses += step(true);
  }
  EXPECT_GT(num_guesses, 100);
}

TEST(NothingIsGuessedWithoutRoomForIt) {
  Speculator speculator{EngineConfig()};
  std::vector<int32_t> drafts = {5};
  speculator.Propose({7, 7, 7, 7}, 0, 1, StepCosts(kRowsMax), &drafts);
  EXPECT_TRUE(drafts.empty());
}

}  // namespace
}  // namespace mlc_server::testing
