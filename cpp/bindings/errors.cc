#include <string>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace mlc_server::bindings {
namespace {

const char* CodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidValue:
      return "invalid_value";
    case ErrorCode::kContextOverflow:
      return "context_overflow";
    case ErrorCode::kQueueFull:
      return "queue_full";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kIncompatible:
      return "incompatible";
    case ErrorCode::kResourceExhausted:
      return "resource_exhausted";
  }
  return "unknown";
}

constexpr char kDoc[] =
    "Bad input, refused by the core.\n\n"
    "code: 'invalid_value', 'context_overflow', 'queue_full', 'unavailable', 'not_found',\n"
    "    'incompatible' or 'resource_exhausted'.\n"
    "param: the field, flag or file at fault; empty when none applies.\n"
    "message: names the limit and the value seen.";

PYBIND11_CONSTINIT py::gil_safe_call_once_and_store<py::object> core_error_type;

void RaiseCoreError(const Error& error) {
  const py::object& type = core_error_type.get_stored();
  py::object instance = type(error.message);
  instance.attr("code") = CodeName(error.code);
  instance.attr("param") = error.param;
  instance.attr("message") = error.message;
  PyErr_SetObject(type.ptr(), instance.ptr());
}

}  // namespace

void RegisterErrors(py::module_& module) {
  core_error_type.call_once_and_store_result([] {
    return py::reinterpret_steal<py::object>(
        PyErr_NewExceptionWithDoc("mlc_server._core.CoreError", kDoc, nullptr, nullptr));
  });
  module.attr("CoreError") = core_error_type.get_stored();
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) {
        std::rethrow_exception(pointer);
      }
    } catch (const CoreException& exception) {
      RaiseCoreError(exception.error());
    }
  });
}

}  // namespace mlc_server::bindings
