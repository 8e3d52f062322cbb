#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace mlc_server {

// The part of llguidance's C interface that this project uses, declared here because the Python
// wheel, whose shared object exports it, has no header. Layouts and names are those of llguidance
// 1.9 to 1.x; Load() checks what can be checked at run time.
namespace llg {

struct Tokenizer;           // opaque; shared by threads
struct Matcher;             // opaque; one thread at a time
struct CancellationHandle;  // opaque; of one matcher, which it may outlive

constexpr uint32_t kNoToken = 0xFFFFFFFFu;

struct TokenizerInit {
  size_t struct_size;
  uint32_t vocab_size;
  uint32_t eos_token;
  const uint32_t* token_lengths;  // [vocab_size]
  const uint8_t* token_bytes;     // concatenated
  const char* tokenizer_json;
  bool tokenize_assumes_string;
  size_t (*tokenize)(const void* user_data, const uint8_t* bytes, size_t num_bytes,
                     uint32_t* tokens, size_t max_tokens);
  bool use_approximate_greedy_tokenize;
  const void* tokenize_user_data;
  const char* const* slices;
  const uint32_t* more_eos_tokens;
  uint32_t num_more_eos_tokens;
};

struct Limits {
  size_t max_items_in_row;
  uint64_t initial_lexer_fuel;
  uint64_t step_lexer_fuel;
  size_t step_max_items;
  size_t max_lexer_states;
  size_t max_grammar_size;
  bool precompute_large_lexemes;
  bool verbose_errors;
};

struct MatcherInit {
  const Tokenizer* tokenizer;
  uint32_t log_buffer_level;
  uint32_t log_stderr_level;
  bool ff_tokens_ok;
  bool backtrack_ok;
  Limits limits;
};

}  // namespace llg

// The functions of one loaded llguidance. It is never unloaded.
struct LlguidanceApi {
  // `path`: the shared object of the Python package. It needs the symbols of a Python interpreter,
  // so it loads inside a Python process only. Errors: kNotFound, kIncompatible.
  static Result<std::shared_ptr<const LlguidanceApi>> Load(const std::string& path);

  const char* (*version)();
  void (*set_defaults)(llg::MatcherInit* init, const llg::Tokenizer* tokenizer);
  llg::Tokenizer* (*new_tokenizer)(const llg::TokenizerInit* init, char* error, size_t error_size);
  void (*free_tokenizer)(llg::Tokenizer* tokenizer);
  // Never null: get_error() tells whether it is usable. `kind`: "json_schema", "regex", "lark".
  llg::Matcher* (*new_matcher)(const llg::MatcherInit* init, const char* kind, const char* source);
  llg::Matcher* (*clone_matcher)(const llg::Matcher* matcher);
  void (*free_matcher)(llg::Matcher* matcher);
  const char* (*get_error)(llg::Matcher* matcher);  // null when there is none
  size_t (*mask_bytes)(const llg::Matcher* matcher);
  int32_t (*compute_mask_into)(llg::Matcher* matcher, uint32_t* mask, size_t num_bytes);
  int32_t (*consume_token)(llg::Matcher* matcher, uint32_t token);
  // Also true after an error, so ask get_error() first.
  bool (*is_stopped)(const llg::Matcher* matcher);
  // Makes an idle matcher one that can be cancelled; null for one that has failed.
  llg::CancellationHandle* (*cancellation_handle)(llg::Matcher* matcher);
  // From any thread, while the matcher works: the work ends with an error before long.
  void (*cancel)(const llg::CancellationHandle* handle);
  void (*free_cancellation_handle)(llg::CancellationHandle* handle);
};

// Checks that `version`, as llguidance reports it ("llguidance@1.9.1 ..."), has the interface
// above.
Status CheckLlguidanceVersion(const std::string& version);
// Checks what set_defaults does to a MatcherInit, which carries no size of its own: that it fills
// the fields this file knows and writes nothing beyond them.
Status CheckLlguidanceLayout(const LlguidanceApi& api, const llg::Tokenizer* tokenizer);

}  // namespace mlc_server
