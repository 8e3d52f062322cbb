#include "model/json.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <unordered_set>

namespace mlc_server {
namespace {

void AppendUtf8(uint32_t code_point, std::string* out) {
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out->push_back(static_cast<char>(0xc0 | (code_point >> 6)));
    out->push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
  } else if (code_point < 0x10000) {
    out->push_back(static_cast<char>(0xe0 | (code_point >> 12)));
    out->push_back(static_cast<char>(0x80 | ((code_point >> 6) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
  } else {
    out->push_back(static_cast<char>(0xf0 | (code_point >> 18)));
    out->push_back(static_cast<char>(0x80 | ((code_point >> 12) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | ((code_point >> 6) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
  }
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Recursive descent over the text. Every Parse* returns false after setting error_.
class Parser {
 public:
  Parser(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  bool ParseDocument(JsonValue* out) {
    if (!ParseValue(out, 0)) {
      return false;
    }
    SkipSpace();
    return position_ == text_.size() || Fail("bytes after the end of the document");
  }

  std::string ErrorMessage() const { return error_ + " at byte " + std::to_string(position_); }

 private:
  bool Fail(const char* message) {
    error_ = message;
    return false;
  }

  bool AtEnd() const { return position_ >= text_.size(); }

  void SkipSpace() {
    while (!AtEnd() && std::strchr(" \t\n\r", text_[position_]) != nullptr &&
           text_[position_] != '\0') {
      ++position_;
    }
  }

  bool Consume(char c) {
    if (AtEnd() || text_[position_] != c) {
      return false;
    }
    ++position_;
    return true;
  }

  bool ParseWord(std::string_view word, JsonValue value, JsonValue* out) {
    if (text_.substr(position_, word.size()) != word) {
      return Fail("unknown word");
    }
    position_ += word.size();
    *out = std::move(value);
    return true;
  }

  bool ParseValue(JsonValue* out, int32_t depth) {
    SkipSpace();
    if (AtEnd()) {
      return Fail("the document ends where a value should start");
    }
    switch (text_[position_]) {
      case '{':
        return ParseObject(out, depth + 1);
      case '[':
        return ParseArray(out, depth + 1);
      case '"': {
        std::string value;
        if (!ParseString(&value)) {
          return false;
        }
        *out = JsonValue(std::move(value));
        return true;
      }
      case 't':
        return ParseWord("true", JsonValue(true), out);
      case 'f':
        return ParseWord("false", JsonValue(false), out);
      case 'n':
        return ParseWord("null", JsonValue(), out);
      default:
        return ParseNumber(out);
    }
  }

  bool ParseObject(JsonValue* out, int32_t depth) {
    if (depth > limits_.depth_max) {
      return Fail("nested too deeply");
    }
    ++position_;
    JsonValue::Object members;
    std::unordered_set<std::string> keys;
    SkipSpace();
    if (!Consume('}')) {
      do {
        SkipSpace();
        std::string key;
        if (!ParseString(&key)) {
          return false;
        }
        if (!keys.insert(key).second) {
          return Fail("duplicate key");
        }
        SkipSpace();
        if (!Consume(':')) {
          return Fail("expected ':'");
        }
        JsonValue value;
        if (!ParseValue(&value, depth)) {
          return false;
        }
        members.emplace_back(std::move(key), std::move(value));
        SkipSpace();
      } while (Consume(','));
      if (!Consume('}')) {
        return Fail("expected ',' or '}'");
      }
    }
    *out = JsonValue(std::move(members));
    return true;
  }

  bool ParseArray(JsonValue* out, int32_t depth) {
    if (depth > limits_.depth_max) {
      return Fail("nested too deeply");
    }
    ++position_;
    JsonValue::Array items;
    SkipSpace();
    if (!Consume(']')) {
      do {
        JsonValue value;
        if (!ParseValue(&value, depth)) {
          return false;
        }
        items.push_back(std::move(value));
        SkipSpace();
      } while (Consume(','));
      if (!Consume(']')) {
        return Fail("expected ',' or ']'");
      }
    }
    *out = JsonValue(std::move(items));
    return true;
  }

  bool ParseString(std::string* out) {
    if (!Consume('"')) {
      return Fail("expected '\"'");
    }
    while (!AtEnd()) {
      const char c = text_[position_];
      if (c == '"') {
        ++position_;
        return true;
      }
      if (static_cast<unsigned char>(c) < 0x20) {
        return Fail("control character in a string");
      }
      ++position_;
      if (c != '\\') {
        out->push_back(c);
      } else if (!ParseEscape(out)) {
        return false;
      }
    }
    return Fail("the document ends inside a string");
  }

  bool ParseEscape(std::string* out) {
    if (AtEnd()) {
      return Fail("the document ends inside a string");
    }
    constexpr std::string_view kEscapes = "\"\\/bfnrt";
    constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const char c = text_[position_];
    const size_t index = kEscapes.find(c);
    if (index != std::string_view::npos) {
      ++position_;
      out->push_back(kMeanings[index]);
      return true;
    }
    uint32_t code_point = 0;
    if (c != 'u') {
      return Fail("unknown escape");
    }
    ++position_;
    if (!ParseHex4(&code_point)) {
      return false;
    }
    if (code_point >= 0xdc00 && code_point < 0xe000) {
      return Fail("lone low surrogate");
    }
    if (code_point >= 0xd800 && code_point < 0xdc00) {
      uint32_t low = 0;
      if (!Consume('\\') || !Consume('u') || !ParseHex4(&low) || low < 0xdc00 || low >= 0xe000) {
        return Fail("lone high surrogate");
      }
      code_point = 0x10000 + ((code_point - 0xd800) << 10) + (low - 0xdc00);
    }
    AppendUtf8(code_point, out);
    return true;
  }

  bool ParseHex4(uint32_t* out) {
    for (int digit = 0; digit < 4; ++digit) {
      const char c = AtEnd() ? '\0' : text_[position_];
      uint32_t value = 0;
      if (IsDigit(c)) {
        value = static_cast<uint32_t>(c - '0');
      } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
        value = static_cast<uint32_t>((c | 0x20) - 'a') + 10;
      } else {
        return Fail("expected four hexadecimal digits");
      }
      *out = *out * 16 + value;
      ++position_;
    }
    return true;
  }

  // Skips one or more digits.
  bool SkipDigits() {
    const size_t first = position_;
    while (!AtEnd() && IsDigit(text_[position_])) {
      ++position_;
    }
    return position_ > first;
  }

  bool ParseNumber(JsonValue* out) {
    const size_t first = position_;
    bool integral = true;
    Consume('-');
    if (!Consume('0') && !SkipDigits()) {
      return Fail("expected a value");
    }
    if (Consume('.')) {
      integral = false;
      if (!SkipDigits()) {
        return Fail("expected digits after '.'");
      }
    }
    if (Consume('e') || Consume('E')) {
      integral = false;
      if (!Consume('+')) {
        Consume('-');
      }
      if (!SkipDigits()) {
        return Fail("expected digits in the exponent");
      }
    }
    const std::string digits(text_.substr(first, position_ - first));
    errno = 0;
    if (integral) {
      *out = JsonValue(static_cast<int64_t>(std::strtoll(digits.c_str(), nullptr, 10)));
      return errno == 0 || Fail("integer beyond 64 bits");
    }
    const double value = std::strtod(digits.c_str(), nullptr);
    *out = JsonValue(value);
    return std::isfinite(value) || Fail("number beyond the range of a double");
  }

  std::string_view text_;
  const JsonLimits& limits_;
  size_t position_ = 0;
  std::string error_;
};

Error TooLong(const std::string& source, size_t size, const JsonLimits& limits) {
  return Error{ErrorCode::kIncompatible, source,
               source + ": JSON of " + std::to_string(size) + " bytes, at most " +
                   std::to_string(limits.bytes_max) + " are read"};
}

}  // namespace

const JsonValue* JsonValue::Find(std::string_view key) const {
  for (const auto& [name, value] : AsObject()) {
    if (name == key) {
      return &value;
    }
  }
  return nullptr;
}

const char* KindName(JsonValue::Kind kind) {
  constexpr const char* kNames[] = {"null",     "a boolean", "an integer", "a fraction",
                                    "a string", "an array",  "an object"};
  return kNames[static_cast<size_t>(kind)];
}

Result<JsonValue> ParseJson(std::string_view text, const std::string& source,
                            const JsonLimits& limits) {
  if (text.size() > limits.bytes_max) {
    return TooLong(source, text.size(), limits);
  }
  JsonValue document;
  Parser parser(text, limits);
  if (!parser.ParseDocument(&document)) {
    return Error{ErrorCode::kIncompatible, source,
                 source + ": not valid JSON: " + parser.ErrorMessage()};
  }
  return document;
}

Result<JsonValue> ReadJsonFile(const std::string& path, const JsonLimits& limits) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0) {
    return Error{ErrorCode::kNotFound, path, "cannot open " + path};
  }
  if (static_cast<uint64_t>(size) > limits.bytes_max) {
    return TooLong(path, static_cast<size_t>(size), limits);
  }
  std::string text(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(text.data(), size)) {
    return Error{ErrorCode::kNotFound, path, "cannot read " + path};
  }
  return ParseJson(text, path, limits);
}

}  // namespace mlc_server
