#pragma once

#include <chrono>
#include <cstdint>
#include <thread>

namespace mlc_server {

// Waits for another thread without a system call at first, and ever more politely after: the cores
// are shared with the HTTP thread, and with whatever thread is being waited for.
class Backoff {
 public:
  // One step of waiting. Call in a loop that tests the awaited condition.
  void Pause() {
    if (++pauses_ % kPausesPerClock != 0 && stage_ == Stage::kSpin) {
      CpuRelax();
      return;
    }
    const auto now = std::chrono::steady_clock::now();
    if (pauses_ <= kPausesPerClock) {
      start_ = now;
    }
    const auto waited = now - start_;
    if (waited < kSpinTime) {
      CpuRelax();
      return;
    }
    // However long after it: a thread may lose its core in the midst of spinning.
    stage_ = Stage::kYield;
    if (waited < kYieldTime) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kSleepTime);
    }
  }

  // Whether the wait has been short so far.
  bool spinning() const { return stage_ == Stage::kSpin; }

  // The condition came true: the next wait starts afresh.
  void Reset() {
    pauses_ = 0;
    stage_ = Stage::kSpin;
  }

 private:
  enum class Stage { kSpin, kYield };

  // Longer than the serial stretches of code between two regions of a step, shorter than anything
  // a person or the HTTP thread would notice.
  static constexpr std::chrono::microseconds kSpinTime{50};
  // A step's sampling may take this long between two regions.
  static constexpr std::chrono::microseconds kYieldTime{2000};
  static constexpr std::chrono::microseconds kSleepTime{50};
  static constexpr uint32_t kPausesPerClock = 32;

  static void CpuRelax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield" ::: "memory");
#endif
  }

  uint32_t pauses_ = 0;
  Stage stage_ = Stage::kSpin;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace mlc_server
