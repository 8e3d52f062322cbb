#include "text/vocabulary.h"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace mlc_server::bindings {

void RegisterVocabulary(py::module_& module) {
  py::class_<Vocabulary, std::shared_ptr<Vocabulary>>(
      module, "Vocabulary", "The bytes each token stands for; immutable, shared by engines.")
      .def(py::init([](std::vector<std::string> token_bytes, std::vector<bool> is_special) {
             if (token_bytes.size() != is_special.size()) {
               throw CoreException({ErrorCode::kInvalidValue, "is_special",
                                    "must have one entry per token, " +
                                        std::to_string(token_bytes.size()) + ", got " +
                                        std::to_string(is_special.size())});
             }
             return std::make_shared<Vocabulary>(token_bytes, std::move(is_special));
           }),
           py::arg("token_bytes"), py::arg("is_special"),
           "token_bytes[id]: raw bytes of the token. is_special[id]: a control token, left out of\n"
           "generated text.")
      .def("__len__", &Vocabulary::size)
      .def(
          "__getitem__",
          [](const Vocabulary& vocabulary, int64_t token_id) {
            if (token_id < 0 || token_id >= vocabulary.size()) {
              throw py::index_error("token " + std::to_string(token_id) + " of " +
                                    std::to_string(vocabulary.size()));
            }
            return py::bytes(std::string(vocabulary.Bytes(static_cast<int32_t>(token_id))));
          },
          py::arg("token_id"), "Bytes of a token.")
      .def("is_special", &Vocabulary::IsSpecial, py::arg("token_id"),
           "Whether it is a control token.")
      .def(
          "special_ids",
          [](const Vocabulary& vocabulary) {
            std::vector<int32_t> ids;
            for (int32_t id = 0; id < vocabulary.size(); ++id) {
              if (vocabulary.IsSpecial(id)) {
                ids.push_back(id);
              }
            }
            return ids;
          },
          "The control tokens.")
      .def("serialize",
           [](const Vocabulary& vocabulary) { return py::bytes(vocabulary.Serialize()); })
      .def_static(
          "parse",
          [](const std::string& serialized) {
            return std::make_shared<Vocabulary>(ValueOrThrow(Vocabulary::Parse(serialized)));
          },
          py::arg("serialized"), "What serialize() made; CoreError: invalid_value.");
}

}  // namespace mlc_server::bindings
