#include "sampling/llguidance_api.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

namespace mlc_server {
namespace {

constexpr char kVersionPrefix[] = "llguidance@";
constexpr long kMajor = 1;
constexpr long kLeastMinor = 9;

// Sets `function` to the symbol `name`; false when the library has none.
template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

}  // namespace

Result<std::shared_ptr<const LlguidanceApi>> LlguidanceApi::Load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return Error{ErrorCode::kNotFound, path,
                 std::string("cannot be loaded: ") + (reason == nullptr ? "unknown" : reason)};
  }
  auto api = std::make_shared<LlguidanceApi>();
  const bool complete =
      Find(library, "llg_get_version", &api->version) &&
      Find(library, "llg_constraint_init_set_defaults", &api->set_defaults) &&
      Find(library, "llg_new_tokenizer_v2", &api->new_tokenizer) &&
      Find(library, "llg_free_tokenizer", &api->free_tokenizer) &&
      Find(library, "llg_new_matcher", &api->new_matcher) &&
      Find(library, "llg_clone_matcher", &api->clone_matcher) &&
      Find(library, "llg_free_matcher", &api->free_matcher) &&
      Find(library, "llg_matcher_get_error", &api->get_error) &&
      Find(library, "llg_matcher_get_mask_byte_size", &api->mask_bytes) &&
      Find(library, "llg_matcher_compute_mask_into", &api->compute_mask_into) &&
      Find(library, "llg_matcher_consume_token", &api->consume_token) &&
      Find(library, "llg_matcher_is_stopped", &api->is_stopped) &&
      Find(library, "llg_matcher_get_cancellation_handle", &api->cancellation_handle) &&
      Find(library, "llg_cancel", &api->cancel) &&
      Find(library, "llg_free_cancellation_handle", &api->free_cancellation_handle);
  if (!complete) {
    return Error{ErrorCode::kIncompatible, path,
                 "does not export the C interface of llguidance 1.9"};
  }
  if (Status status = CheckLlguidanceVersion(api->version())) {
    return Error{status->code, path, status->message};
  }
  return std::shared_ptr<const LlguidanceApi>(std::move(api));
}

Status CheckLlguidanceVersion(const std::string& version) {
  const size_t prefix = std::strlen(kVersionPrefix);
  long major = -1;
  long minor = -1;
  if (version.compare(0, prefix, kVersionPrefix) == 0) {
    char* rest = nullptr;
    major = std::strtol(version.c_str() + prefix, &rest, 10);
    minor = *rest == '.' ? std::strtol(rest + 1, nullptr, 10) : -1;
  }
  if (major != kMajor || minor < kLeastMinor) {
    return Error{ErrorCode::kIncompatible, "", "llguidance must be 1.9 to 1.x, got " + version};
  }
  return std::nullopt;
}

Status CheckLlguidanceLayout(const LlguidanceApi& api, const llg::Tokenizer* tokenizer) {
  struct Guarded {
    llg::MatcherInit init;
    std::array<unsigned char, 64> guard;
  };
  constexpr unsigned char kUntouched = 0xA5;
  Guarded guarded = {};
  guarded.guard.fill(kUntouched);
  api.set_defaults(&guarded.init, tokenizer);
  const llg::Limits& limits = guarded.init.limits;
  const bool filled = guarded.init.tokenizer == tokenizer && limits.max_items_in_row > 0 &&
                      limits.initial_lexer_fuel > 0 && limits.step_lexer_fuel > 0 &&
                      limits.step_max_items > 0 && limits.max_lexer_states > 0 &&
                      limits.max_grammar_size > 0 && limits.verbose_errors;
  const bool inside = std::all_of(guarded.guard.begin(), guarded.guard.end(),
                                  [](unsigned char byte) { return byte == kUntouched; });
  if (!filled || !inside) {
    return Error{ErrorCode::kIncompatible, "",
                 "the C interface of llguidance " + std::string(api.version()) +
                     " differs from the one known here"};
  }
  return std::nullopt;
}

}  // namespace mlc_server
