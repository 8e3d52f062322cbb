#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "core/grammar.h"
#include "sampling/llguidance_api.h"

namespace mlc_server {

// What a grammar's source is written in.
enum class GrammarKind {
  kJsonSchema,
  kRegex,  // Rust's syntax; matches the whole output
  kLark,   // llguidance's dialect
};

// What compiled grammars are for.
enum class GrammarPurpose {
  kMasks,  // to follow outputs by
  kTrial,  // to see whether they compile: a third of the memory, masks may take 10x as long
};

// Compiles grammars for one vocabulary, through llguidance. Compile() is for any thread.
//
// Masks allow every tokenisation of a permitted text, also where the grammar forces the text: the
// library is given no tokenizer to force one by, so the model's own choice among them stands.
class GrammarCompiler {
 public:
  // token_bytes[id] are the bytes a token stands for; ids from its size up to vocab_size, and those
  // that are empty, are never allowed. Special tokens are allowed only where a Lark grammar names
  // them. Errors: kNotFound, kIncompatible, kInvalidValue.
  static Result<std::unique_ptr<GrammarCompiler>> Create(
      const std::string& library_path, const std::vector<std::string>& token_bytes,
      const std::vector<bool>& is_special, const std::vector<int32_t>& eos_token_ids,
      int32_t vocab_size, GrammarPurpose purpose = GrammarPurpose::kMasks);

  // Bounded by llguidance's limits, except for patterns of its own making that grow without bound
  // (multiples of large numbers, tens of thousands of options): callers bound what they pass on.
  // Error kInvalidValue says what is wrong, in llguidance's words.
  Result<std::shared_ptr<const Grammar>> Compile(GrammarKind kind, const std::string& source) const;

 private:
  GrammarCompiler(std::shared_ptr<const LlguidanceApi> api,
                  std::shared_ptr<const llg::Tokenizer> tokenizer, size_t mask_words)
      : api_(std::move(api)), tokenizer_(std::move(tokenizer)), mask_words_(mask_words) {}

  std::shared_ptr<const LlguidanceApi> api_;
  std::shared_ptr<const llg::Tokenizer> tokenizer_;
  size_t mask_words_;
};

}  // namespace mlc_server
