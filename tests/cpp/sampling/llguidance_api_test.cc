// What can be said of llguidance's library without a Python interpreter to load it into; the rest
// is tested in tests/python/engine/test_grammar_core.py.

#include "sampling/llguidance_api.h"

#include "support/cpp_test.h"

namespace mlc_server {
namespace {

TEST(OnlyKnownVersionsAreAccepted) {
  for (const char* version :
       {"llguidance@1.9.0", "llguidance@1.9.1 derivre@0.3.13", "llguidance@1.12.0-rc1"}) {
    EXPECT_TRUE(!CheckLlguidanceVersion(version));
  }
  for (const char* version : {"llguidance@1.8.4", "llguidance@2.0.0 derivre@1.0", "llguidance@0.9",
                              "llguidance@1", "derivre@1.9.1", ""}) {
    const Status status = CheckLlguidanceVersion(version);
    EXPECT_TRUE(status.has_value());
    EXPECT_EQ(status->code, ErrorCode::kIncompatible);
    EXPECT_TRUE(status->message.find(version) != std::string::npos);
  }
}

TEST(AMissingOrForeignLibraryIsAnError) {
  const auto missing = LlguidanceApi::Load("/nowhere/_lib.so");
  EXPECT_TRUE(!missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(missing.error().param, std::string("/nowhere/_lib.so"));
  const auto foreign = LlguidanceApi::Load("libm.so.6");
  EXPECT_TRUE(!foreign.ok());
  EXPECT_EQ(foreign.error().code, ErrorCode::kIncompatible);
}

}  // namespace
}  // namespace mlc_server
