#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "model/fake_runner.h"
#include "model/model_input.h"
#include "model/tvm_runner.h"

namespace py = pybind11;

namespace mlc_server::bindings {
namespace {

using Int32Array = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

struct FakeRunnerHandle : RunnerHandle {};
struct TvmRunnerHandle : RunnerHandle {
  std::string metadata_json;
};

std::vector<int32_t> ToVector(const Int32Array& array) {
  return std::vector<int32_t>(array.data(), array.data() + array.size());
}

void AllocateKv(RunnerHandle& handle, int32_t num_pages) {
  const std::shared_ptr<ModelRunner> runner = Lend(&handle);
  handle.num_pages = 0;
  {
    py::gil_scoped_release release;
    ThrowIfError(runner->AllocateKv(num_pages));
  }
  handle.num_pages = num_pages;
}

py::array_t<float> Forward(RunnerHandle& handle, const Int32Array& token_ids,
                           const Int32Array& positions, const Int32Array& write_slots,
                           const Int32Array& query_offsets, const Int32Array& page_offsets,
                           const Int32Array& page_table, const Int32Array& logit_rows,
                           const std::optional<Int32Array>& page_copies) {
  const std::shared_ptr<ModelRunner> runner = Lend(&handle);
  ModelInput input;
  input.token_ids = ToVector(token_ids);
  input.positions = ToVector(positions);
  input.write_slots = ToVector(write_slots);
  input.query_offsets = ToVector(query_offsets);
  input.page_offsets = ToVector(page_offsets);
  input.page_table = ToVector(page_table);
  input.logit_rows = ToVector(logit_rows);
  if (page_copies) {
    input.page_copies = ToVector(*page_copies);
  }
  ThrowIfError(ValidateModelInput(input, runner->info(), handle.num_pages));
  LogitsView logits;
  {
    py::gil_scoped_release release;
    logits = runner->Run(input);
  }
  py::array_t<float> result({logits.rows, logits.vocab_size});
  std::memcpy(result.mutable_data(), logits.data, static_cast<size_t>(result.nbytes()));
  return result;
}

std::unique_ptr<TvmRunnerHandle> LoadTvmRunner(
    const TvmRunnerOptions& options,
    const std::optional<std::function<void(int64_t, int64_t)>>& progress) {
  auto handle = std::make_unique<TvmRunnerHandle>();
  py::gil_scoped_release release;  // pybind11's std::function takes the GIL for each call
  std::unique_ptr<TvmRunner> runner =
      ValueOrThrow(TvmRunner::Load(options, progress.value_or(nullptr)));
  handle->metadata_json = runner->metadata_json();
  handle->runner = std::move(runner);
  return handle;
}

std::unique_ptr<FakeRunnerHandle> MakeFakeRunner(const FakeRunnerOptions& options) {
  ThrowIfError(options.Validate());
  auto handle = std::make_unique<FakeRunnerHandle>();
  handle->runner = std::make_shared<FakeRunner>(options);
  return handle;
}

void RegisterModelInfo(py::module_& module) {
  py::class_<ModelInfo>(module, "ModelInfo", "Facts about the loaded model.")
      .def_readonly("vocab_size", &ModelInfo::vocab_size)
      .def_readonly("page_size", &ModelInfo::page_size, "Tokens per KV page.")
      .def_readonly("max_rows", &ModelInfo::max_rows, "Most tokens in one run.")
      .def_readonly("max_logit_rows", &ModelInfo::max_logit_rows)
      .def_readonly("context_window", &ModelInfo::context_window, "Tokens.")
      .def_readonly("bytes_per_page", &ModelInfo::bytes_per_page, "Over all layers.")
      .def_readonly("weight_bytes", &ModelInfo::weight_bytes, "Resident.");
}

}  // namespace

std::shared_ptr<ModelRunner> Lend(RunnerHandle* handle) {
  if (!handle->user.expired()) {
    throw CoreException(
        {ErrorCode::kUnavailable, "runner", "it is in use by an engine or in another call"});
  }
  const auto owner = std::make_shared<std::shared_ptr<ModelRunner>>(handle->runner);
  handle->user = owner;
  return std::shared_ptr<ModelRunner>(owner, owner->get());
}

void RegisterRunners(py::module_& module) {
  RegisterModelInfo(module);
  py::class_<RunnerHandle>(module, "ModelRunner", "Runs a model; base of the runners below.")
      .def_property_readonly("info",
                             [](const RunnerHandle& handle) { return handle.runner->info(); })
      .def("allocate_kv", &AllocateKv, py::arg("num_pages"),
           "Takes memory for the KV pages. An Engine does this itself.")
      .def("forward", &Forward, py::arg("token_ids"), py::arg("positions"), py::arg("write_slots"),
           py::arg("query_offsets"), py::arg("page_offsets"), py::arg("page_table"),
           py::arg("logit_rows"), py::arg("page_copies") = py::none(),
           "Runs one batch and returns logits, float32 [len(logit_rows), vocab_size].\n\n"
           "The tables are int32 vectors, those of ModelInput in cpp/model/model_runner.h.\n"
           "For tests: refused while an Engine uses the runner.");

  py::class_<FakeRunnerHandle, RunnerHandle>(
      module, "FakeRunner", "A deterministic stand-in for a model; see cpp/model/fake_runner.h.")
      .def(py::init([](int32_t vocab_size, int32_t page_size, int32_t max_rows,
                       int32_t max_logit_rows, int32_t context_window, int64_t step_ns,
                       int64_t throw_at_step, int32_t eos_token_id, double eos_probability,
                       int32_t poison_token_id, double copy_probability) {
             return MakeFakeRunner({vocab_size, page_size, max_rows, max_logit_rows, context_window,
                                    step_ns, throw_at_step, eos_token_id, eos_probability,
                                    poison_token_id, copy_probability});
           }),
           py::kw_only(), py::arg("vocab_size") = 256, py::arg("page_size") = 16,
           py::arg("max_rows") = 4096, py::arg("max_logit_rows") = 512,
           py::arg("context_window") = 8192, py::arg("step_ns") = 0, py::arg("throw_at_step") = -1,
           py::arg("eos_token_id") = -1, py::arg("eos_probability") = 0.0,
           py::arg("poison_token_id") = -1, py::arg("copy_probability") = 0.0,
           "step_ns: least duration of a run. throw_at_step: index of the run that fails.\n"
           "eos_probability: how likely each position wants eos_token_id next.\n"
           "poison_token_id: a sequence that contains it gets NaN logits. -1 is off.\n"
           "copy_probability: how likely each position copies earlier text.");

  py::class_<TvmRunnerHandle, RunnerHandle>(module, "TvmRunner",
                                            "Runs a model library that TVM compiled.")
      .def(py::init([](std::string library_path, std::string model_folder, int32_t num_threads,
                       std::string tvm_library_path,
                       const std::optional<std::function<void(int64_t, int64_t)>>& progress) {
             return LoadTvmRunner({std::move(library_path), std::move(model_folder),
                                   std::move(tvm_library_path), num_threads},
                                  progress);
           }),
           py::arg("library_path"), py::arg("model_folder"), py::arg("num_threads"), py::kw_only(),
           py::arg("tvm_library_path"), py::arg("progress") = py::none(),
           "Loads the library and packs the weights; the GIL is free meanwhile.\n\n"
           "tvm_library_path: libtvm_runtime.so. progress(bytes_done, bytes_total) is called on\n"
           "the calling thread. Raises CoreError: not_found, incompatible, resource_exhausted.")
      .def_readonly("metadata_json", &TvmRunnerHandle::metadata_json,
                    "What the library says of itself.");

  module.def("measure_empty_region_ns", &MeasureEmptyRegionNs, py::arg("num_threads"),
             py::arg("num_tasks"), py::arg("repeats"), py::call_guard<py::gil_scoped_release>(),
             "Mean duration of an empty parallel region inside a step, nanoseconds.");
}

}  // namespace mlc_server::bindings
