#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "core/engine_config.h"
#include "core/sampling_params.h"

namespace py = pybind11;

namespace mlc_server::bindings {
namespace {

// Makes `Class(field=value, ...)` out of a class whose fields are all attributes.
template <typename T>
T FromKeywords(const py::kwargs& fields) {
  T value;
  py::object view = py::cast(&value, py::return_value_policy::reference);
  for (const auto& [name, field] : fields) {
    if (!py::hasattr(view, name)) {
      throw py::type_error("unknown field " + py::cast<std::string>(name));
    }
    py::setattr(view, name, field);
  }
  return value;
}

std::string SpeculativeModeName(const EngineConfig& config) {
  return config.speculative_mode == SpeculativeMode::kNgram ? "ngram" : "disable";
}

void SetSpeculativeMode(EngineConfig& config, const std::string& name) {
  if (name != "disable" && name != "ngram") {
    throw CoreException({ErrorCode::kInvalidValue, "speculative_mode",
                         "must be \"disable\" or \"ngram\", got \"" + name + "\""});
  }
  config.speculative_mode = name == "ngram" ? SpeculativeMode::kNgram : SpeculativeMode::kDisable;
}

}  // namespace

void RegisterConfig(py::module_& module) {
  py::class_<SamplingParams>(module, "SamplingParams",
                             "How the next token is chosen and when generation ends.\n\n"
                             "Fields and ranges are those of cpp/core/sampling_params.h.")
      .def(py::init(&FromKeywords<SamplingParams>), "Fields by name; the rest keep their default.")
      .def_readwrite("temperature", &SamplingParams::temperature)
      .def_readwrite("top_p", &SamplingParams::top_p)
      .def_readwrite("top_k", &SamplingParams::top_k)
      .def_readwrite("min_p", &SamplingParams::min_p)
      .def_readwrite("repetition_penalty", &SamplingParams::repetition_penalty)
      .def_readwrite("presence_penalty", &SamplingParams::presence_penalty)
      .def_readwrite("frequency_penalty", &SamplingParams::frequency_penalty)
      .def_readwrite("logit_bias", &SamplingParams::logit_bias)
      .def_readwrite("seed", &SamplingParams::seed)
      .def_readwrite("max_tokens", &SamplingParams::max_tokens)
      .def_readwrite("min_tokens", &SamplingParams::min_tokens)
      .def_readwrite("stop", &SamplingParams::stop)
      .def_readwrite("stop_token_ids", &SamplingParams::stop_token_ids)
      .def_readwrite("ignore_eos", &SamplingParams::ignore_eos)
      .def_readwrite("include_stop_str_in_output", &SamplingParams::include_stop_str_in_output)
      .def_readwrite("top_logprobs", &SamplingParams::top_logprobs)
      .def_readwrite("prompt_logprobs", &SamplingParams::prompt_logprobs)
      .def(
          "validate",
          [](const SamplingParams& params, int32_t vocab_size) {
            ThrowIfError(params.Validate(vocab_size));
          },
          py::arg("vocab_size"), "Raises CoreError for the first field out of range.");

  py::class_<EngineConfig>(module, "EngineConfig",
                           "Limits the engine runs under.\n\n"
                           "Fields and meanings are those of cpp/core/engine_config.h.")
      .def(py::init(&FromKeywords<EngineConfig>), "Fields by name; the rest keep their default.")
      .def_readwrite("max_batch_size", &EngineConfig::max_batch_size)
      .def_readwrite("prefill_chunk_size", &EngineConfig::prefill_chunk_size)
      .def_readwrite("max_sequence_length", &EngineConfig::max_sequence_length)
      .def_readwrite("page_size", &EngineConfig::page_size)
      .def_readwrite("num_pages", &EngineConfig::num_pages)
      .def_readwrite("max_queue_size", &EngineConfig::max_queue_size)
      .def_readwrite("max_choices", &EngineConfig::max_choices)
      .def_readwrite("vocab_size", &EngineConfig::vocab_size)
      .def_readwrite("eos_token_ids", &EngineConfig::eos_token_ids)
      .def_readwrite("strip_leading_space", &EngineConfig::strip_leading_space)
      .def_property("speculative_mode", &SpeculativeModeName, &SetSpeculativeMode,
                    "\"disable\" or \"ngram\".")
      .def_readwrite("draft_tokens_max", &EngineConfig::draft_tokens_max)
      .def_readwrite("ngram_min", &EngineConfig::ngram_min)
      .def_readwrite("ngram_max", &EngineConfig::ngram_max)
      .def_readwrite("speculative_rows_max", &EngineConfig::speculative_rows_max)
      .def_readwrite("scored_rows_max", &EngineConfig::scored_rows_max)
      .def_readwrite("check_every_step", &EngineConfig::check_every_step)
      .def(
          "validate", [](const EngineConfig& config) { ThrowIfError(config.Validate()); },
          "Raises CoreError for the first field out of range.");
}

}  // namespace mlc_server::bindings
