#include "engine/engine.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "bindings/bindings.h"
#include "engine/engine_thread.h"

namespace py = pybind11;

namespace mlc_server::bindings {
namespace {

// Of an EventFormat. As bytes: they are UTF-8, but need no decoding.
using EventParts = std::pair<std::vector<py::bytes>, py::bytes>;
using PromptIds = std::variant<py::bytes, std::vector<int32_t>>;

std::vector<int32_t> ToTokenIds(PromptIds prompt_ids) {
  if (auto* ids = std::get_if<std::vector<int32_t>>(&prompt_ids)) {
    return std::move(*ids);
  }
  const auto data = std::string_view(std::get<py::bytes>(prompt_ids));
  if (data.size() % sizeof(int32_t) != 0) {
    throw CoreException(
        {ErrorCode::kInvalidValue, "prompt",
         "bytes must hold whole int32 values, got " + std::to_string(data.size()) + " bytes"});
  }
  std::vector<int32_t> ids(data.size() / sizeof(int32_t));
  std::memcpy(ids.data(), data.data(), data.size());
  return ids;
}

py::str ToStr(const std::string& text) {
  // Text is valid UTF-8 by TextStream's contract; "replace" so that a bug there loses no output.
  PyObject* decoded =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
  if (decoded == nullptr) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::str>(decoded);
}

py::object ToLogprobs(const std::vector<TokenLogprobs>& logprobs) {
  if (logprobs.empty()) {
    return py::none();
  }
  py::list result(logprobs.size());
  for (size_t token_idx = 0; token_idx < logprobs.size(); ++token_idx) {
    const TokenLogprobs& entry = logprobs[token_idx];
    py::list alternatives(entry.alternatives.size());
    for (size_t rank = 0; rank < entry.alternatives.size(); ++rank) {
      alternatives[rank] =
          py::make_tuple(entry.alternatives[rank].token_id, entry.alternatives[rank].logprob);
    }
    result[token_idx] = py::make_tuple(entry.token.token_id, entry.token.logprob,
                                       std::move(alternatives), entry.rank);
  }
  return result;
}

py::object ToStopReason(const OutputItem& item) {
  if (!item.stop_string.empty()) {
    return ToStr(item.stop_string);
  }
  return item.stop_token_id >= 0 ? py::object(py::int_(item.stop_token_id)) : py::none();
}

// None, or what happened to the prompt: (queue_s, logprobs).
py::object ToPromptNews(const OutputItem& item) {
  if (item.queue_ns < 0 && item.prompt_logprobs.empty()) {
    return py::none();
  }
  py::object queue_s = py::none();
  if (item.queue_ns >= 0) {
    queue_s = py::float_(static_cast<double>(item.queue_ns) * 1e-9);
  }
  return py::make_tuple(std::move(queue_s), ToLogprobs(item.prompt_logprobs));
}

py::tuple ToTuple(const OutputItem& item) {
  const bool ended = item.finish_reason != FinishReason::kNone;
  return py::make_tuple(
      item.request_id, item.choice, ToStr(item.text), item.token_ids, ToLogprobs(item.logprobs),
      ended ? py::object(py::str(FinishReasonName(item.finish_reason))) : py::none(),
      ToStopReason(item), item.prompt_tokens, item.completion_tokens,
      item.error.empty() ? py::object(py::none()) : py::object(ToStr(item.error)),
      ToPromptNews(item),
      item.event_chunk.empty() ? py::object(py::none()) : py::object(py::bytes(item.event_chunk)));
}

// The engine and its thread as Python holds them.
class EngineHandle {
 public:
  EngineHandle(RunnerHandle& runner, std::shared_ptr<Vocabulary> vocabulary,
               const EngineConfig& config) {
    std::shared_ptr<ModelRunner> lent = Lend(&runner);
    runner.num_pages = 0;
    {
      py::gil_scoped_release release;  // allocating KV may take a while
      thread_ = std::make_unique<EngineThread>(ValueOrThrow(Engine::Create(
          std::move(lent), std::move(vocabulary), config, std::make_shared<SteadyClock>())));
    }
    runner.num_pages = config.num_pages;
  }
  ~EngineHandle() {
    py::gil_scoped_release release;  // joins the engine thread
    thread_.reset();
  }

  EngineThread& thread() { return *thread_; }
  Engine& engine() { return thread_->engine(); }

 private:
  std::unique_ptr<EngineThread> thread_;
};

void Submit(EngineHandle& handle, uint64_t request_id, PromptIds prompt_ids,
            const SamplingParams& sampling, int32_t num_choices, int32_t priority,
            const std::shared_ptr<Grammar>& grammar, bool begins_text,
            std::optional<EventParts> events) {
  Request request;
  request.id = request_id;
  request.prompt_ids = ToTokenIds(std::move(prompt_ids));
  request.sampling = sampling;
  request.num_choices = num_choices;
  request.priority = priority;
  request.grammar = grammar;
  request.begins_text = begins_text;
  if (events.has_value()) {
    request.events = std::make_shared<const EventFormat>(
        EventFormat{{events->first.begin(), events->first.end()}, std::string(events->second)});
  }
  py::gil_scoped_release release;
  ThrowIfError(handle.engine().Submit(std::move(request)));
}

py::list Drain(EngineHandle& handle) {
  std::vector<OutputItem> items;
  {
    py::gil_scoped_release release;
    items = handle.engine().Drain();
    for (OutputItem& item : items) {
      item.WriteEvent();
    }
  }
  py::list result(items.size());
  for (size_t idx = 0; idx < items.size(); ++idx) {
    result[idx] = ToTuple(items[idx]);
  }
  return result;
}

void RegisterStats(py::module_& module) {
  py::class_<EngineStats>(module, "EngineStats", "See cpp/engine/stats.h.")
      .def_readonly("num_running", &EngineStats::num_running, "Sequences that hold pages.")
      .def_readonly("num_waiting", &EngineStats::num_waiting, "Requests not begun.")
      .def_readonly("num_open", &EngineStats::num_open, "Requests not ended.")
      .def_readonly("free_pages", &EngineStats::free_pages)
      .def_readonly("total_pages", &EngineStats::total_pages)
      .def_readonly("last_batch_sequences", &EngineStats::last_batch_sequences)
      .def_readonly("last_batch_tokens", &EngineStats::last_batch_tokens)
      .def_readonly("last_step_ns", &EngineStats::last_step_ns)
      .def_readonly("alive", &EngineStats::alive, "Started, and neither dead nor stopped.")
      .def_readonly("heartbeat_age_ns", &EngineStats::heartbeat_age_ns)
      .def_readonly("num_steps", &EngineStats::num_steps)
      .def_readonly("busy_ns", &EngineStats::busy_ns)
      .def_readonly("prefill_tokens", &EngineStats::prefill_tokens)
      .def_readonly("generated_tokens", &EngineStats::generated_tokens)
      .def_readonly("drafted_tokens", &EngineStats::drafted_tokens, "Guesses checked.")
      .def_readonly("accepted_tokens", &EngineStats::accepted_tokens, "Guesses that were right.")
      .def_readonly("preemptions", &EngineStats::preemptions)
      .def_readonly("finished_stop", &EngineStats::finished_stop, "Choices.")
      .def_readonly("finished_length", &EngineStats::finished_length, "Choices.")
      .def_readonly("finished_cancelled", &EngineStats::finished_cancelled, "Choices.")
      .def_readonly("finished_error", &EngineStats::finished_error, "Choices.");
}

constexpr double kMaxStopTimeoutS = 3600.0;

constexpr char kDrainDoc[] =
    "Everything since the last call, oldest first; re-arms the wake-up. One tuple per news:\n"
    "(request_id, choice, text, token_ids, logprobs, finish_reason, stop_reason, prompt_tokens,\n"
    "completion_tokens, error, prompt, event_chunk).\n\n"
    "logprobs: None, or per token (token_id, logprob, [(token_id, logprob), ...], rank); rank is "
    "0\n"
    "where it is not known.\n"
    "finish_reason: None, 'stop', 'length', 'cancelled' or 'error'. stop_reason: the stop id or\n"
    "stop string that ended it, None for EOS. error: what went wrong, else None.\n"
    "prompt: None, or (queue_s, logprobs). queue_s: how long the request waited until some of it\n"
    "ran, told once, else None. logprobs: None, or those of the next prompt tokens, as above; the\n"
    "first token has none.\n"
    "event_chunk: None, or the text as an event if the request has a format for them and the news\n"
    "is text and tokens alone; text is empty then.\n"
    "text may lag behind token_ids while bytes are held back.";

}  // namespace

void RegisterEngine(py::module_& module) {
  RegisterStats(module);
  const py::call_guard<py::gil_scoped_release> release_gil;
  py::class_<EngineHandle>(module, "Engine", "Serves many requests with one model.")
      .def(py::init<RunnerHandle&, std::shared_ptr<Vocabulary>, const EngineConfig&>(),
           py::arg("runner"), py::arg("vocabulary"), py::arg("config"),
           "Checks the config against the model and takes the KV pages. CoreError: incompatible,\n"
           "invalid_value, resource_exhausted, unavailable (another engine lives on the runner).")
      .def(
          "start", [](EngineHandle& handle) { ThrowIfError(handle.thread().Start()); }, release_gil,
          "Starts the engine thread, once.")
      .def(
          "stop",
          [](EngineHandle& handle, double timeout_s) {
            return handle.thread().Stop(std::chrono::nanoseconds(
                static_cast<int64_t>(std::clamp(timeout_s, 0.0, kMaxStopTimeoutS) * 1e9)));
          },
          py::arg("timeout_s") = 10.0, release_gil,
          "Lets the current step finish, ends open requests with 'error' and joins the thread.\n\n"
          "False when the step took longer than that: nobody has been answered then.")
      .def("submit", &Submit, py::arg("request_id"), py::arg("prompt_ids"), py::arg("sampling"),
           py::arg("num_choices") = 1, py::arg("priority") = 0, py::arg("grammar") = nullptr,
           py::arg("begins_text") = true, py::arg("events") = py::none(),
           "Queues a request. prompt_ids: token ids, or their bytes as int32 in native order.\n\n"
           "request_id is the caller's, unique among open requests. Lower priority runs first.\n"
           "grammar: what every choice must match, None for free text. begins_text: the output is\n"
           "not the rest of the prompt's text.\n"
           "events: None, or ([a choice's constant beginning, ...], constant end): news of text\n"
           "becomes a server-sent event, with a JSON string between them, in an HTTP chunk.\n"
           "CoreError: invalid_value, context_overflow, queue_full, unavailable.")
      .def(
          "cancel",
          [](EngineHandle& handle, uint64_t request_id) { handle.engine().Cancel(request_id); },
          py::arg("request_id"), release_gil,
          "Ends a request; its pages are free after the next step. Unknown ids are ignored.")
      .def(
          "wake_fd", [](EngineHandle& handle) { return handle.engine().wake_fd(); },
          "An eventfd, readable when output waits; owned by the engine.")
      .def("drain", &Drain, kDrainDoc)
      .def(
          "stats", [](EngineHandle& handle) { return handle.thread().Stats(); }, release_gil,
          "A snapshot, at most one step old.")
      .def(
          "health", [](EngineHandle& handle) { return handle.thread().Health(); }, release_gil,
          "'ok', 'not started', 'stopped' or 'dead: <reason>'.");
}

}  // namespace mlc_server::bindings
