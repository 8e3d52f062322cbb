#include "core/grammar.h"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/heap.h"
#include "bindings/bindings.h"
#include "sampling/grammar_compiler.h"
#include "text/vocabulary.h"

namespace py = pybind11;

namespace mlc_server::bindings {
namespace {

GrammarKind KindOf(const std::string& name) {
  if (name == "json_schema") {
    return GrammarKind::kJsonSchema;
  }
  if (name == "regex") {
    return GrammarKind::kRegex;
  }
  if (name == "lark") {
    return GrammarKind::kLark;
  }
  throw CoreException({ErrorCode::kInvalidValue, "kind",
                       "must be 'json_schema', 'regex' or 'lark', got '" + name + "'"});
}

std::unique_ptr<GrammarCompiler> MakeCompiler(const std::string& library_path,
                                              const Vocabulary& vocabulary,
                                              const std::vector<int32_t>& eos_token_ids,
                                              int32_t vocab_size, bool for_trial) {
  std::vector<std::string> token_bytes;
  std::vector<bool> is_special;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    token_bytes.emplace_back(vocabulary.Bytes(id));
    is_special.push_back(vocabulary.IsSpecial(id));
  }
  return ValueOrThrow(
      GrammarCompiler::Create(library_path, token_bytes, is_special, eos_token_ids, vocab_size,
                              for_trial ? GrammarPurpose::kTrial : GrammarPurpose::kMasks));
}

std::shared_ptr<Grammar> Compile(const GrammarCompiler& compiler, const std::string& kind,
                                 const std::string& source) {
  // pybind11 holds no pointers to const; what Python gets has const members only.
  return std::const_pointer_cast<Grammar>(ValueOrThrow(compiler.Compile(KindOf(kind), source)));
}

}  // namespace

void RegisterGrammar(py::module_& module) {
  py::class_<Grammar, std::shared_ptr<Grammar>>(module, "Grammar",
                                                "What an output must match, compiled.");
  const py::call_guard<py::gil_scoped_release> release_gil;
  py::class_<GrammarCompiler>(module, "GrammarCompiler",
                              "Compiles grammars for one vocabulary; for any thread.")
      .def(py::init(&MakeCompiler), release_gil, py::arg("library_path"), py::arg("vocabulary"),
           py::arg("eos_token_ids"), py::arg("vocab_size"), py::arg("for_trial") = false,
           "library_path: the shared object of the package llguidance. for_trial: less memory,\n"
           "slower masks.\n\n"
           "CoreError: not_found, incompatible, invalid_value.")
      .def("compile", &Compile, release_gil, py::arg("kind"), py::arg("source"),
           "kind: 'json_schema', 'regex' or 'lark'. The GIL is free meanwhile.\n\n"
           "CoreError invalid_value says what is wrong with the source.");
  module.def("heap_bytes", &HeapBytes,
             "Bytes that the process has from malloc; 0 where the C library does not tell.");
  module.def("trim_heap", &TrimHeap, release_gil,
             "Gives back to the system what malloc holds of freed memory.");
}

}  // namespace mlc_server::bindings
