// The threads that follow grammars, without an engine.

#include "engine/grammar_workers.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

using std::chrono::milliseconds;

// Allows everything once the gate is open, and says nothing before.
struct Gate {
  std::atomic<bool> is_open{false};
  std::atomic<int> num_waiting{0};
};

class GatedMatcher : public GrammarMatcher {
 public:
  explicit GatedMatcher(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}

  Result<const uint32_t*> AllowedTokens() override {
    ++gate_->num_waiting;
    while (!gate_->is_open && !cancelled_) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    return static_cast<const uint32_t*>(&mask_);
  }
  Status Consume(int32_t) override { return std::nullopt; }
  bool IsComplete() const override { return false; }
  void Cancel() override { cancelled_ = true; }

 private:
  std::shared_ptr<Gate> gate_;
  std::atomic<bool> cancelled_{false};
  uint32_t mask_ = ~0u;
};

class GatedGrammar : public Grammar {
 public:
  explicit GatedGrammar(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  std::unique_ptr<GrammarMatcher> NewMatcher() const override {
    return std::make_unique<GatedMatcher>(gate_);
  }

 private:
  std::shared_ptr<Gate> gate_;
};

// Waits for up to 10 s.
template <typename Condition>
bool Comes(Condition condition) {
  for (int i = 0; i < 5000 && !condition(); ++i) {
    std::this_thread::sleep_for(milliseconds(2));
  }
  return condition();
}

bool BecomesKnown(GrammarWorkers* workers, const GrammarFollower& follower) {
  return Comes([&] { return workers->Progress(follower) == GrammarProgress::kKnown; });
}

TEST(OutputsThatQueueForASlowGrammarGetTheirTurn) {
  // The grammar turns out to be slow while an ordinary thread is at it: the outputs that come then
  // queue for the slow thread, which cannot begin before the other has ended.
  GrammarWorkers workers([] {});
  const auto gate = std::make_shared<Gate>();
  const auto grammar = std::make_shared<GatedGrammar>(gate);
  const auto first = workers.Begin(grammar);
  EXPECT_TRUE(Comes([&] { return gate->num_waiting == 1; }));
  grammar->NoteSlow();
  std::vector<std::shared_ptr<GrammarFollower>> others;
  for (int i = 0; i < 3; ++i) {
    others.push_back(workers.Begin(grammar));
  }
  std::this_thread::sleep_for(milliseconds(50));  // the slow thread looks, and goes to sleep
  EXPECT_EQ(gate->num_waiting.load(), 1);
  gate->is_open = true;
  EXPECT_TRUE(BecomesKnown(&workers, *first));
  for (const auto& other : others) {
    EXPECT_TRUE(BecomesKnown(&workers, *other));
  }
}

TEST(OutputsOfOneGrammarTakeTurns) {
  GrammarWorkers workers([] {});
  const auto gate = std::make_shared<Gate>();
  const auto grammar = std::make_shared<GatedGrammar>(gate);
  std::vector<std::shared_ptr<GrammarFollower>> followers;
  for (int i = 0; i < 4; ++i) {
    followers.push_back(workers.Begin(grammar));
  }
  EXPECT_TRUE(Comes([&] { return gate->num_waiting == 1; }));
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(gate->num_waiting.load(), 1);
  gate->is_open = true;
  for (const auto& follower : followers) {
    EXPECT_TRUE(BecomesKnown(&workers, *follower));
  }
}

}  // namespace
}  // namespace mlc_server::testing
