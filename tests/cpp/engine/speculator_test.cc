// Guessing pays for itself: it goes on where guesses are right and nearly stops where they are not.

#include "engine/speculator.h"

#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

// Steps with guesses among `num_steps`, in text that always offers some, `num_accepted` of which
// are right each time.
int32_t CountSpeculation(Speculator* speculator, int32_t num_steps, int32_t num_accepted) {
  const std::vector<int32_t> repetitive(100, 7);
  std::vector<int32_t> drafts;
  int32_t count = 0;
  for (int32_t step = 0; step < num_steps; ++step) {
    speculator->Propose(repetitive, 4, &drafts);
    const auto num_drafts = static_cast<int32_t>(drafts.size());
    count += num_drafts > 0 ? 1 : 0;
    speculator->NoteStep(num_drafts, num_drafts > 0 ? num_accepted : 0);
  }
  return count;
}

TEST(RightGuessesGoOnForEver) {
  Speculator speculator{EngineConfig()};
  EXPECT_EQ(CountSpeculation(&speculator, 1000, 4), 1000);
  EXPECT_EQ(CountSpeculation(&speculator, 1000, 1), 1000);
}

TEST(WrongGuessesAreOneStepInThirtyThree) {
  Speculator speculator{EngineConfig()};
  EXPECT_EQ(CountSpeculation(&speculator, 2, 0), 2);  // the benefit of the doubt
  EXPECT_EQ(CountSpeculation(&speculator, 3300, 0), 100);
}

TEST(GuessingStartsAgainWhenItPays) {
  Speculator speculator{EngineConfig()};
  CountSpeculation(&speculator, 500, 0);
  EXPECT_GT(CountSpeculation(&speculator, 100, 3), 60);
  EXPECT_EQ(CountSpeculation(&speculator, 4, 0), 4);  // success is not forgotten at once
}

TEST(NothingIsGuessedWithoutRoomForIt) {
  Speculator speculator{EngineConfig()};
  std::vector<int32_t> drafts = {5};
  speculator.Propose({7, 7, 7, 7}, 0, &drafts);
  EXPECT_TRUE(drafts.empty());
}

}  // namespace
}  // namespace mlc_server::testing
