// Random runs of scheduler and page pool. Environment:
//   MLC_SIMULATION_SEED   first seed (default 1)
//   MLC_SIMULATION_COUNT  number of seeds (default 1000)
//   MLC_SIMULATION_STEPS  eventful steps of each (default 500)

#include "cpp/schedule/simulation.h"

#include <cstdlib>
#include <string>

#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

int64_t Setting(const char* name, int64_t value_default) {
  const char* text = std::getenv(name);
  return text == nullptr ? value_default : std::stoll(text);
}

SimulationStats Simulate(uint64_t seed, int32_t num_steps) {
  Simulation simulation(seed, num_steps);
  try {
    return simulation.Run();
  } catch (const std::exception& error) {
    Fail(__FILE__, __LINE__,
         "MLC_SIMULATION_SEED=" + std::to_string(seed) +
             " MLC_SIMULATION_COUNT=1 MLC_SIMULATION_STEPS=" + std::to_string(num_steps) + ": " +
             error.what());
  }
}

TEST(SimulationKeepsTheSchedulersContract) {
  const int64_t seed = Setting("MLC_SIMULATION_SEED", 1);
  const int64_t count = Setting("MLC_SIMULATION_COUNT", 1000);
  const auto num_steps = static_cast<int32_t>(Setting("MLC_SIMULATION_STEPS", 500));
  SimulationStats total;
  for (int64_t index = 0; index < count; ++index) {
    total.Add(Simulate(seed + index, num_steps));
  }
  EXPECT_EQ(total.arrived, total.finished + total.cancelled + total.cancelled_in_flight);
  if (count < 100) {
    return;
  }
  // The runs met what they are there for, often.
  EXPECT_GT(total.finished, count);
  EXPECT_GT(total.cancelled, count);
  EXPECT_GT(total.cancelled_in_flight, count);
  EXPECT_GT(total.preempted, count);
  EXPECT_GT(total.allocation_faults, count);
  EXPECT_GT(total.shared_starts, count);
  EXPECT_GT(total.copies, count);
  EXPECT_GT(total.heirs, count);
  EXPECT_GT(total.waits_for_prompt, count);
  EXPECT_GT(total.drafts, 10 * count);
  EXPECT_GT(total.drafts_kept, count);
  EXPECT_GT(total.draft_pages, count);
  EXPECT_GT(total.scored, 10 * count);
  EXPECT_GT(total.waits_for_scores, count);
}

TEST(SimulationIsDeterministic) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    EXPECT_EQ(Simulate(seed, 200).trace, Simulate(seed, 200).trace);
  }
  EXPECT_NE(Simulate(1, 200).trace, Simulate(2, 200).trace);
}

}  // namespace
}  // namespace mlc_server::testing
