#pragma once

// The few macros the C++ tests need. TEST(Name) defines a test; EXPECT_* throw on failure with the
// operands printed. Run a program with a substring to run only the tests whose names contain it.

#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace mlc_server::testing {

struct TestCase {
  const char* name;
  void (*body)();
};

std::vector<TestCase>& AllTests();

struct Registration {
  Registration(const char* name, void (*body)()) { AllTests().push_back({name, body}); }
};

class ExpectationFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename T>
std::string Show(const T& value) {
  std::ostringstream out;
  if constexpr (std::is_enum_v<T>) {
    out << static_cast<long long>(value);
  } else {
    out << value;
  }
  return out.str();
}

template <typename T>
std::string Show(const std::vector<T>& values) {
  std::string out = "[";
  for (const auto& value : values) {
    out += Show(static_cast<T>(value)) + " ";
  }
  return out + "]";
}

[[noreturn]] inline void Fail(const char* file, int line, const std::string& message) {
  throw ExpectationFailed(std::string(file) + ":" + std::to_string(line) + ": " + message);
}

template <typename A, typename B, typename Op>
void ExpectOp(const A& a, const B& b, Op op, const char* file, int line, const char* expected) {
  if (!op(a, b)) {
    Fail(file, line, std::string(expected) + ", got " + Show(a) + " and " + Show(b));
  }
}

}  // namespace mlc_server::testing

#define TEST(name)                                                                    \
  static void Test_##name();                                                          \
  static ::mlc_server::testing::Registration registration_##name(#name, Test_##name); \
  static void Test_##name()

#define EXPECT_TRUE(condition)                                                       \
  do {                                                                               \
    if (!(condition)) {                                                              \
      ::mlc_server::testing::Fail(__FILE__, __LINE__, "expected true: " #condition); \
    }                                                                                \
  } while (0)

#define EXPECT_FALSE(condition) EXPECT_TRUE(!(condition))

// A function call, so that temporaries in `a` and `b` live until they have been compared and shown.
#define EXPECT_OP(a, b, op)                                                                      \
  ::mlc_server::testing::ExpectOp((a), (b), [](const auto& x, const auto& y) { return x op y; }, \
                                  __FILE__, __LINE__, "expected " #a " " #op " " #b)

#define EXPECT_EQ(a, b) EXPECT_OP(a, b, ==)
#define EXPECT_NE(a, b) EXPECT_OP(a, b, !=)
#define EXPECT_LT(a, b) EXPECT_OP(a, b, <)
#define EXPECT_LE(a, b) EXPECT_OP(a, b, <=)
#define EXPECT_GT(a, b) EXPECT_OP(a, b, >)
#define EXPECT_GE(a, b) EXPECT_OP(a, b, >=)

#define EXPECT_THROW(statement, exception)                                                      \
  do {                                                                                          \
    bool expect_thrown = false;                                                                 \
    try {                                                                                       \
      statement;                                                                                \
    } catch (const exception&) {                                                                \
      expect_thrown = true;                                                                     \
    }                                                                                           \
    if (!expect_thrown) {                                                                       \
      ::mlc_server::testing::Fail(__FILE__, __LINE__, #statement " did not throw " #exception); \
    }                                                                                           \
  } while (0)
