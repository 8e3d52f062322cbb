#pragma once

// What the binding files share. They only bind: no logic beyond converting arguments and results.

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "base/result.h"
#include "model/model_runner.h"

namespace mlc_server::bindings {

// An Error on its way to Python, where it becomes a CoreError.
class CoreException : public std::exception {
 public:
  explicit CoreException(Error error) : error_(std::move(error)) {}
  const Error& error() const { return error_; }
  const char* what() const noexcept override { return error_.message.c_str(); }

 private:
  Error error_;
};

inline void ThrowIfError(const Status& status) {
  if (status) {
    throw CoreException(*status);
  }
}

template <typename T>
T ValueOrThrow(Result<T> result) {
  if (!result.ok()) {
    throw CoreException(result.error());
  }
  return std::move(result).value();
}

// A runner as Python holds it: shared with the engine that uses it, one at a time.
struct RunnerHandle {
  std::shared_ptr<ModelRunner> runner;
  int32_t num_pages = 0;     // KV pages allocated
  std::weak_ptr<void> user;  // whom it is lent to
};

// The runner for an engine, or for one call from Python: it is in use until the last copy of the
// pointer is gone, which an engine's thread may have for longer than its handle lives. Throws when
// it is in use. Called under the GIL.
std::shared_ptr<ModelRunner> Lend(RunnerHandle* handle);

void RegisterErrors(pybind11::module_& module);
void RegisterConfig(pybind11::module_& module);
void RegisterVocabulary(pybind11::module_& module);
void RegisterGrammar(pybind11::module_& module);
void RegisterRunners(pybind11::module_& module);
void RegisterEngine(pybind11::module_& module);

}  // namespace mlc_server::bindings
