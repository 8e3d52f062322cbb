#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "model/model_runner.h"

namespace mlc_server {

struct TvmRunnerOptions {
  // The compiled model library (.so).
  std::string library_path;
  // Folder with tensor-cache.json (or ndarray-cache.json), its shards and mlc-chat-config.json.
  std::string model_folder;
  // libtvm_runtime.so of the installed TVM. Loaded once per process; the first path given wins.
  std::string tvm_library_path;
  // Threads of the kernels, the calling one included; >= 1.
  int32_t num_threads = 1;
};

// Called on the loading thread with bytes of tensors packed so far and in all.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

// Runs a model library that TVM compiled for this machine's CPU, with the core's own thread pool.
// Loading may happen on another thread than running; each call needs the object to itself.
class TvmRunner final : public ModelRunner {
 public:
  // Loads the library, checks that it fits this program and the folder, and packs the weights.
  // kNotFound: a file or function is missing. kIncompatible: an artefact does not fit; the message
  // names both values. kResourceExhausted: not enough memory for the weights.
  static Result<std::unique_ptr<TvmRunner>> Load(const TvmRunnerOptions& options,
                                                 const LoadProgress& progress = nullptr);
  ~TvmRunner() override;

  const ModelInfo& info() const override;
  // The KV memory is zeroed and takes physical memory only as pages are first written. Refused
  // with kResourceExhausted when it is more than the machine has available.
  Status AllocateKv(int32_t num_pages) override;
  // An input outside the limits of info() is a broken invariant; so is any failure of a kernel.
  LogitsView Run(const ModelInput& input) override;

  // What the library says of itself, as JSON.
  const std::string& metadata_json() const;

 private:
  struct Impl;
  explicit TvmRunner(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Mean duration of a parallel region of `num_tasks` empty tasks inside a step, in nanoseconds, on
// a pool of `num_threads`: what every region of a kernel pays. For benchmarks.
double MeasureEmptyRegionNs(int32_t num_threads, int32_t num_tasks, int32_t repeats);

}  // namespace mlc_server
