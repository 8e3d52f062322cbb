#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace mlc_server {

// A parsed JSON document (RFC 8259). Reading a value as a kind that it is not is a broken
// invariant: look at kind() or use FieldReader, which turns a wrong kind into an Error.
class JsonValue {
 public:
  enum class Kind { kNull, kBool, kInt, kDouble, kString, kArray, kObject };
  using Array = std::vector<JsonValue>;
  // Members in document order; keys are unique.
  using Object = std::vector<std::pair<std::string, JsonValue>>;

  JsonValue() = default;
  explicit JsonValue(bool value) : state_(value) {}
  explicit JsonValue(int64_t value) : state_(value) {}
  explicit JsonValue(double value) : state_(value) {}
  explicit JsonValue(std::string value) : state_(std::move(value)) {}
  explicit JsonValue(Array value) : state_(std::move(value)) {}
  explicit JsonValue(Object value) : state_(std::move(value)) {}

  Kind kind() const { return static_cast<Kind>(state_.index()); }
  bool AsBool() const { return Get<bool>(); }
  int64_t AsInt() const { return Get<int64_t>(); }
  double AsDouble() const { return Get<double>(); }
  const std::string& AsString() const { return Get<std::string>(); }
  const Array& AsArray() const { return Get<Array>(); }
  const Object& AsObject() const { return Get<Object>(); }
  // The member of this object, or nullptr when it has none of that name.
  const JsonValue* Find(std::string_view key) const;

 private:
  template <typename T>
  const T& Get() const {
    MLC_CHECK(std::holds_alternative<T>(state_))
        << "JSON value of kind " << state_.index() << " read as another kind";
    return std::get<T>(state_);
  }
  // The order of the alternatives is that of Kind.
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> state_;
};

const char* KindName(JsonValue::Kind kind);

struct JsonLimits {
  size_t bytes_max = size_t{64} << 20;  // longest document
  int32_t depth_max = 32;               // deepest nesting of arrays and objects
};

// Parses `text`, refusing everything outside the grammar: trailing commas or bytes, comments, NaN,
// leading zeros, lone surrogates, duplicate keys, integers beyond int64. `source` names the
// document in errors. Bytes above 0x7f inside strings are passed through unchecked.
Result<JsonValue> ParseJson(std::string_view text, const std::string& source,
                            const JsonLimits& limits = JsonLimits());

// The document in a file, with the same limits. kNotFound when it cannot be opened.
Result<JsonValue> ReadJsonFile(const std::string& path, const JsonLimits& limits = JsonLimits());

}  // namespace mlc_server
