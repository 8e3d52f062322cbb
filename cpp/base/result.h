#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace mlc_server {

// What kind of bad input an Error reports. The HTTP layer maps each to a status and an OpenAI code.
enum class ErrorCode {
  kInvalidValue,       // a field is outside its documented range
  kContextOverflow,    // prompt plus requested tokens do not fit the context window
  kQueueFull,          // the bounded inbox has no room; retry later
  kUnavailable,        // the engine is starting, draining or dead
  kNotFound,           // a file, function or tensor that was named does not exist
  kIncompatible,       // an artefact exists but its version, shape or dtype does not fit
  kResourceExhausted,  // memory could not be had
};

// Bad input, explained to the person who gave it. Never used for a broken invariant.
struct Error {
  ErrorCode code = ErrorCode::kInvalidValue;
  std::string param;    // the field, flag or file at fault; empty when none applies
  std::string message;  // names the limit and the value seen
};

// Either a value or an Error. Reading the side that is not there is a broken invariant.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return std::holds_alternative<T>(state_); }
  const T& value() const& { return Value(); }
  T& value() & { return const_cast<T&>(Value()); }
  T&& value() && { return std::move(const_cast<T&>(Value())); }
  const Error& error() const {
    MLC_CHECK(!ok()) << "error() of a Result that holds a value";
    return std::get<Error>(state_);
  }

 private:
  const T& Value() const {
    MLC_CHECK(ok()) << "value() of a Result that holds an error: "
                    << std::get<Error>(state_).message;
    return std::get<T>(state_);
  }
  std::variant<T, Error> state_;
};

// The outcome of an operation that yields nothing but may be refused.
using Status = std::optional<Error>;

}  // namespace mlc_server
