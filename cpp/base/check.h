#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace mlc_server {

// A broken invariant: a bug in this program, never a consequence of what a user sent.
class InvariantError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

namespace internal {

// Collects the message of a failed check and throws InvariantError when the statement ends.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition) {
    stream_ << file << ":" << line << ": check failed: " << condition << " ";
  }
  [[noreturn]] ~CheckFailure() noexcept(false) { throw InvariantError(stream_.str()); }
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

}  // namespace internal
}  // namespace mlc_server

// Trips on a broken invariant; usable as `MLC_CHECK(n >= 0) << "n is " << n;`.
#define MLC_CHECK(condition)                \
  if (__builtin_expect(!!(condition), 1)) { \
  } else /* NOLINT(readability/braces) */   \
    ::mlc_server::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()
