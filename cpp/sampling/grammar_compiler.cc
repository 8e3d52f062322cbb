#include "sampling/grammar_compiler.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "base/check.h"

namespace mlc_server {
namespace {

// A text never contains this byte, so llguidance marks special tokens with it.
constexpr char kSpecialMarker = '\xFF';
// One or two kilobytes each; the library's default would let one sequence take half a gigabyte.
constexpr size_t kMaxLexerStates = 8000;
// Four for each of 512 optional properties, and then some.
constexpr size_t kMaxItemsInRow = 4000;
// Tokens that a mask takes as one where a grammar allows every text of that kind: characters of a
// JSON string, of a bounded one while it has so much room. Each costs memory like the vocabulary.
// llguidance has four by default; these two are as fast on strings of any bound.
constexpr std::array<const char*, 3> kMaskSlices = {R"([^"\\\x00-\x1F\x7F]{1,16})",
                                                    R"([^"\\\x00-\x1F\x7F]+)", nullptr};
constexpr std::array<const char*, 1> kNoSlices = {nullptr};
// What llguidance puts after its messages in place of its inner state.
constexpr char kNoDetails[] = "\n<non-verbose/>";
constexpr size_t kMaxErrorBytes = 512;

const char* KindName(GrammarKind kind) {
  switch (kind) {
    case GrammarKind::kJsonSchema:
      return "json_schema";
    case GrammarKind::kRegex:
      return "regex";
    case GrammarKind::kLark:
      return "lark";
  }
  MLC_CHECK(false) << "unknown kind of grammar";
  return "";
}

// What a matcher, once made, is used through.
struct Runtime {
  std::shared_ptr<const LlguidanceApi> api;
  std::shared_ptr<const llg::Tokenizer> tokenizer;  // outlives every matcher
  size_t mask_words;
};

using MatcherPtr = std::unique_ptr<llg::Matcher, void (*)(llg::Matcher*)>;
using CancellationPtr =
    std::unique_ptr<llg::CancellationHandle, void (*)(llg::CancellationHandle*)>;

// Checked after every call, because a failed matcher also claims to be finished.
Status ErrorOf(const LlguidanceApi& api, llg::Matcher* matcher) {
  const char* message = api.get_error(matcher);
  if (message == nullptr) {
    return std::nullopt;
  }
  const std::string text(message);
  size_t size = std::min({kMaxErrorBytes, text.find(kNoDetails), text.size()});
  while (size < text.size() && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) {
    --size;  // cuts no character of UTF-8 in two
  }
  return Error{ErrorCode::kInvalidValue, "", text.substr(0, size)};
}

class LlguidanceMatcher : public GrammarMatcher {
 public:
  LlguidanceMatcher(std::shared_ptr<const Runtime> runtime, llg::Matcher* matcher)
      : runtime_(std::move(runtime)),
        matcher_(matcher, runtime_->api->free_matcher),
        cancellation_(runtime_->api->cancellation_handle(matcher),
                      runtime_->api->free_cancellation_handle),
        mask_(runtime_->mask_words) {}

  Result<const uint32_t*> AllowedTokens() override {
    const LlguidanceApi& api = *runtime_->api;
    const int32_t failed =
        api.compute_mask_into(matcher_.get(), mask_.data(), mask_.size() * sizeof(uint32_t));
    if (Status status = ErrorOf(api, matcher_.get())) {
      return *status;
    }
    if (failed != 0) {
      return Error{ErrorCode::kInvalidValue, "", "the grammar's next tokens cannot be worked out"};
    }
    return static_cast<const uint32_t*>(mask_.data());
  }

  Status Consume(int32_t token_id) override {
    const LlguidanceApi& api = *runtime_->api;
    const int32_t failed = api.consume_token(matcher_.get(), static_cast<uint32_t>(token_id));
    if (Status status = ErrorOf(api, matcher_.get())) {
      return status;
    }
    if (failed != 0) {
      return Error{ErrorCode::kInvalidValue, "", "the grammar does not allow the token drawn"};
    }
    return std::nullopt;
  }

  bool IsComplete() const override {
    const LlguidanceApi& api = *runtime_->api;
    return api.is_stopped(matcher_.get()) && api.get_error(matcher_.get()) == nullptr;
  }

  void Cancel() override {
    if (cancellation_ != nullptr) {
      runtime_->api->cancel(cancellation_.get());
    }
  }

  std::unique_ptr<GrammarMatcher> Clone() const {
    return std::make_unique<LlguidanceMatcher>(runtime_,
                                               runtime_->api->clone_matcher(matcher_.get()));
  }

 private:
  std::shared_ptr<const Runtime> runtime_;
  MatcherPtr matcher_;
  CancellationPtr cancellation_;  // null if the matcher has failed
  std::vector<uint32_t> mask_;
};

// Keeps a matcher at the beginning and gives out copies, which cost microseconds.
class LlguidanceGrammar : public Grammar {
 public:
  explicit LlguidanceGrammar(std::unique_ptr<LlguidanceMatcher> first) : first_(std::move(first)) {}

  std::unique_ptr<GrammarMatcher> NewMatcher() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return first_->Clone();
  }

 private:
  mutable std::mutex mutex_;
  std::unique_ptr<LlguidanceMatcher> first_;
};

// Tokens as llguidance wants them.
struct TokenTable {
  std::vector<uint32_t> lengths;  // [vocab_size]
  std::string bytes;
};

TokenTable MakeTable(const std::vector<std::string>& token_bytes,
                     const std::vector<bool>& is_special, int32_t vocab_size) {
  TokenTable table;
  table.lengths.resize(static_cast<size_t>(vocab_size), 0);
  for (size_t id = 0; id < table.lengths.size() && id < token_bytes.size(); ++id) {
    const std::string& text = token_bytes[id];
    if (text.empty() || (!is_special[id] && text[0] == kSpecialMarker)) {
      continue;  // an ordinary token of that byte would pass for a special one
    }
    const size_t begin = table.bytes.size();
    if (is_special[id]) {
      table.bytes += kSpecialMarker;
    }
    table.bytes += text;
    table.lengths[id] = static_cast<uint32_t>(table.bytes.size() - begin);
  }
  return table;
}

}  // namespace

Result<std::unique_ptr<GrammarCompiler>> GrammarCompiler::Create(
    const std::string& library_path, const std::vector<std::string>& token_bytes,
    const std::vector<bool>& is_special, const std::vector<int32_t>& eos_token_ids,
    int32_t vocab_size, GrammarPurpose purpose) {
  MLC_CHECK(token_bytes.size() == is_special.size());
  Result<std::shared_ptr<const LlguidanceApi>> loaded = LlguidanceApi::Load(library_path);
  if (!loaded.ok()) {
    return loaded.error();
  }
  const std::shared_ptr<const LlguidanceApi>& api = loaded.value();
  const TokenTable table = MakeTable(token_bytes, is_special, vocab_size);
  std::vector<uint32_t> eos;
  for (const int32_t id : eos_token_ids) {
    if (id < 0 || id >= vocab_size || table.lengths[id] == 0) {
      return Error{ErrorCode::kInvalidValue, "eos_token_ids",
                   "must be tokens of the vocabulary, got " + std::to_string(id)};
    }
    eos.push_back(static_cast<uint32_t>(id));
  }
  llg::TokenizerInit init = {};
  init.struct_size = sizeof(init);
  init.vocab_size = static_cast<uint32_t>(vocab_size);
  init.eos_token = eos.empty() ? llg::kNoToken : eos[0];
  init.token_lengths = table.lengths.data();
  init.token_bytes = reinterpret_cast<const uint8_t*>(table.bytes.data());
  init.use_approximate_greedy_tokenize = true;
  init.slices = purpose == GrammarPurpose::kMasks ? kMaskSlices.data() : kNoSlices.data();
  if (eos.size() > 1) {
    init.more_eos_tokens = eos.data() + 1;
    init.num_more_eos_tokens = static_cast<uint32_t>(eos.size() - 1);
  }
  std::array<char, kMaxErrorBytes> message = {};
  llg::Tokenizer* made = api->new_tokenizer(&init, message.data(), message.size());
  if (made == nullptr) {
    return Error{ErrorCode::kInvalidValue, "vocabulary", message.data()};
  }
  std::shared_ptr<const llg::Tokenizer> tokenizer(
      made, [api](llg::Tokenizer* pointer) { api->free_tokenizer(pointer); });
  if (Status status = CheckLlguidanceLayout(*api, tokenizer.get())) {
    return *status;
  }
  const size_t mask_words = (static_cast<size_t>(vocab_size) + 31) / 32;
  return std::unique_ptr<GrammarCompiler>(
      new GrammarCompiler(api, std::move(tokenizer), mask_words));
}

Result<std::shared_ptr<const Grammar>> GrammarCompiler::Compile(GrammarKind kind,
                                                                const std::string& source) const {
  if (source.find('\0') != std::string::npos) {
    return Error{ErrorCode::kInvalidValue, "", "must not contain the character U+0000"};
  }
  llg::MatcherInit init = {};
  api_->set_defaults(&init, tokenizer_.get());
  init.log_buffer_level = 0;
  init.log_stderr_level = 0;
  init.limits.max_lexer_states = kMaxLexerStates;
  init.limits.max_items_in_row = kMaxItemsInRow;
  init.limits.verbose_errors = false;  // they would hold the output so far
  MatcherPtr matcher(api_->new_matcher(&init, KindName(kind), source.c_str()), api_->free_matcher);
  MLC_CHECK(matcher != nullptr);
  if (Status status = ErrorOf(*api_, matcher.get())) {
    return *status;
  }
  const size_t mask_bytes = api_->mask_bytes(matcher.get());
  if (mask_bytes != mask_words_ * sizeof(uint32_t)) {
    return Error{ErrorCode::kIncompatible, "",
                 "llguidance's masks have " + std::to_string(mask_bytes) + " bytes, expected " +
                     std::to_string(mask_words_ * sizeof(uint32_t))};
  }
  auto runtime = std::make_shared<Runtime>(Runtime{api_, tokenizer_, mask_words_});
  auto first = std::make_unique<LlguidanceMatcher>(std::move(runtime), matcher.release());
  // The first mask shows limits that are exceeded at once, here rather than in the engine; what it
  // works out on the way is there for every copy.
  if (Result<const uint32_t*> allowed = first->AllowedTokens(); !allowed.ok()) {
    return allowed.error();
  }
  return std::shared_ptr<const Grammar>(std::make_shared<LlguidanceGrammar>(std::move(first)));
}

}  // namespace mlc_server
