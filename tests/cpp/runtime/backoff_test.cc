#include "runtime/backoff.h"

#include <chrono>
#include <thread>

#include "support/cpp_test.h"

namespace mlc_server {
namespace {

void PauseOften(Backoff* backoff) {
  for (int pause = 0; pause < 32; ++pause) {
    backoff->Pause();
  }
}

// Without a core for longer than all of spinning and yielding, it has not been a short wait. A
// worker that took it for one would never look whether it is to end.
TEST(WaitIsNotShortAfterALongInterruption) {
  Backoff backoff;
  PauseOften(&backoff);
  EXPECT_TRUE(backoff.spinning());
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  PauseOften(&backoff);
  EXPECT_TRUE(!backoff.spinning());
  backoff.Reset();
  EXPECT_TRUE(backoff.spinning());
}

}  // namespace
}  // namespace mlc_server
