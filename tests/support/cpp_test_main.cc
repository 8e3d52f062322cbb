#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>

#include "support/cpp_test.h"

namespace mlc_server::testing {

std::vector<TestCase>& AllTests() {
  static std::vector<TestCase> tests;
  return tests;
}

}  // namespace mlc_server::testing

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // under a sanitizer a test takes minutes
  int passed = 0;
  int failed = 0;
  for (const auto& test : mlc_server::testing::AllTests()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) {
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    try {
      test.body();
      ++passed;
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED %s\n  %s\n", test.name, error.what());
      continue;
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("ok %s (%.2f s)\n", test.name, seconds.count());
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
