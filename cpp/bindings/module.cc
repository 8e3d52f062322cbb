#include "bindings/bindings.h"

PYBIND11_MODULE(_core, module) {
  using namespace mlc_server::bindings;  // NOLINT(build/namespaces)
  module.doc() = "The compiled core of mlc_server: engine, scheduler, sampler and model runners.";
  RegisterErrors(module);
  RegisterConfig(module);
  RegisterVocabulary(module);
  RegisterGrammar(module);
  RegisterRunners(module);
  RegisterEngine(module);
}
