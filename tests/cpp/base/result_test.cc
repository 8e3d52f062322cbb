#include "base/result.h"

#include <memory>

#include "base/clock.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

Error SomeError() { return {ErrorCode::kNotFound, "file", "no such file"}; }

TEST(ResultHoldsAValueOrAnError) {
  const Result<int> value(7);
  EXPECT_TRUE(value.ok());
  EXPECT_EQ(value.value(), 7);
  const Result<int> error(SomeError());
  EXPECT_FALSE(error.ok());
  EXPECT_EQ(error.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(error.error().param, "file");
}

TEST(ResultMovesOutAValueThatCannotBeCopied) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(3));
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 3);
}

TEST(ReadingTheMissingSideOfAResultIsABrokenInvariant) {
  const Result<int> value(7);
  EXPECT_THROW(value.error(), InvariantError);
  const Result<int> error(SomeError());
  EXPECT_THROW(error.value(), InvariantError);
}

TEST(CheckThrowsWithConditionAndMessageOnlyWhenFalse) {
  MLC_CHECK(1 + 1 == 2) << "not evaluated";
  std::string what;
  try {
    MLC_CHECK(1 + 1 == 3) << "sum is " << 2;
  } catch (const InvariantError& error) {
    what = error.what();
  }
  EXPECT_TRUE(what.find("1 + 1 == 3") != std::string::npos);
  EXPECT_TRUE(what.find("sum is 2") != std::string::npos);
}

TEST(CheckBindsToItsOwnIf) {
  bool reached_else = false;
  if (false)
    MLC_CHECK(true);
  else
    reached_else = true;
  EXPECT_TRUE(reached_else);
}

TEST(ManualClockMovesOnlyWhenTold) {
  ManualClock clock;
  EXPECT_EQ(clock.NowNs(), 0);
  clock.AdvanceNs(5);
  EXPECT_EQ(clock.NowNs(), 5);
  EXPECT_EQ(clock.NowNs(), 5);
}

TEST(SteadyClockNeverGoesBack) {
  const SteadyClock clock;
  const int64_t before = clock.NowNs();
  EXPECT_GE(clock.NowNs(), before);
}

}  // namespace
}  // namespace mlc_server
