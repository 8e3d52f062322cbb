#include "model/tvm_runner.h"

#include <tvm/ffi/any.h>
#include <tvm/ffi/function.h>

#include <array>
#include <chrono>
#include <cstring>
#include <limits>
#include <utility>

#include "model/attention_plan.h"
#include "model/host_memory.h"
#include "model/library_metadata.h"
#include "model/model_input.h"
#include "model/tensor_cache.h"
#include "model/tvm_library.h"
#include "model/tvm_runtime.h"
#include "model/tvm_tensors.h"
#include "model/weight_loader.h"
#include "runtime/thread_pool.h"

namespace mlc_server {
namespace {

namespace ffi = tvm::ffi;

constexpr size_t kNumArguments = 10;

ModelInfo MakeInfo(const LibraryMetadata& metadata) {
  ModelInfo info;
  info.vocab_size = metadata.vocab_size;
  info.page_size = kPageSize;
  info.max_rows = metadata.max_rows;
  info.max_logit_rows = metadata.max_logit_rows;
  info.context_window = metadata.context_window_size;
  info.bytes_per_page = metadata.kv_bytes_per_page;
  info.weight_bytes = metadata.arena_bytes;
  return info;
}

// The tables of one step, in the order `forward` takes them.
struct StepTables {
  explicit StepTables(const LibraryMetadata& metadata)
      : token_ids(0, metadata.max_rows),
        positions(0, metadata.max_rows),
        write_slots(0, metadata.max_rows),
        page_offsets(0, metadata.max_sequences + int64_t{1}),
        page_table(0, 1024),
        attention_items(4, metadata.max_attention_items),
        combine_items(3, metadata.max_sequences),
        logit_rows(0, metadata.max_logit_rows) {}

  void Fill(const ModelInput& input, const AttentionPlan& plan) {
    token_ids.Assign(input.token_ids);
    positions.Assign(input.positions);
    write_slots.Assign(input.write_slots);
    page_offsets.Assign(input.page_offsets);
    page_table.Assign(input.page_table);
    logit_rows.Assign(input.logit_rows);
    int32_t* out = attention_items.Resize(static_cast<int64_t>(plan.items.size()));
    for (const AttentionItem& item : plan.items) {
      for (const int32_t value : {item.sequence, item.first_row, item.row_count, item.split}) {
        *out++ = value;
      }
    }
    // Kernels take at least one combine item and skip a negative row.
    if (plan.combines.empty()) {
      out = combine_items.Resize(1);
      out[0] = -1;
      out[1] = out[2] = 0;
      return;
    }
    out = combine_items.Resize(static_cast<int64_t>(plan.combines.size()));
    for (const CombineItem& item : plan.combines) {
      for (const int32_t value : {item.row, item.first_slot, item.slot_count}) {
        *out++ = value;
      }
    }
  }

  StepTable token_ids;
  StepTable positions;
  StepTable write_slots;
  StepTable page_offsets;
  StepTable page_table;
  StepTable attention_items;
  StepTable combine_items;
  StepTable logit_rows;
};

}  // namespace

// Members are destroyed from the last to the first: tensors before the memory they view.
struct TvmRunner::Impl {
  Impl(LibraryMetadata metadata_in, TvmLibrary library_in, std::unique_ptr<ThreadPool> pool_in,
       HostMemory weights_in)
      : metadata(std::move(metadata_in)),
        info(MakeInfo(metadata)),
        pool(std::move(pool_in)),
        weights(std::move(weights_in)),
        library(std::move(library_in)),
        tables(metadata),
        weights_tensor(ViewTensor(weights.data(), {weights.size()}, DataType::kUint8)) {
    plan_limits.num_threads = pool->num_threads();
    plan_limits.num_kv_heads = metadata.num_kv_heads;
    plan_limits.max_items = metadata.max_attention_items;
  }

  // Frees the last step's logits, whose memory serves the next one's.
  void DropOutput();
  // `pages` are from, to, from, to ...
  void CopyPages(const std::vector<int32_t>& pages);
  // Calls forward on the filled tables; the logits stay in `output`.
  void Call();
  LogitsView View(int32_t rows) const;

  LibraryMetadata metadata;
  ModelInfo info;
  AttentionPlanLimits plan_limits;
  std::unique_ptr<ThreadPool> pool;
  HostMemory weights;
  HostMemory kv;
  int32_t num_pages = 0;
  TvmLibrary library;
  AttentionPlan plan;
  StepTables tables;
  ffi::Tensor weights_tensor;
  ffi::Tensor kv_tensor;
  ffi::Any output;
};

TvmRunner::TvmRunner(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TvmRunner::~TvmRunner() = default;
const ModelInfo& TvmRunner::info() const { return impl_->info; }
const std::string& TvmRunner::metadata_json() const { return impl_->library.metadata_json; }

Result<std::unique_ptr<TvmRunner>> TvmRunner::Load(const TvmRunnerOptions& options,
                                                   const LoadProgress& progress) {
  if (options.num_threads < 1) {
    return Error{ErrorCode::kInvalidValue, "num_threads",
                 "num_threads must be at least 1, got " + std::to_string(options.num_threads)};
  }
  if (Status status = LoadTvmRuntime(options.tvm_library_path)) {
    return *status;
  }
  Result<TvmLibrary> library = OpenTvmLibrary(options.library_path);
  if (!library.ok()) {
    return library.error();
  }
  Result<LibraryMetadata> metadata =
      ParseLibraryMetadata(library.value().metadata_json, options.library_path);
  if (!metadata.ok()) {
    return metadata.error();
  }
  const std::string config_path = options.model_folder + "/mlc-chat-config.json";
  const Result<JsonValue> config = ReadJsonFile(config_path);
  if (!config.ok()) {
    return config.error();
  }
  if (Status status =
          CheckModelConfig(metadata.value(), config.value(), config_path, options.library_path)) {
    return *status;
  }
  const Result<TensorCache> cache = TensorCache::Open(options.model_folder);
  if (!cache.ok()) {
    return cache.error();
  }
  auto pool = std::make_unique<ThreadPool>(options.num_threads);
  const ParallelScope scope(pool.get());
  Result<HostMemory> weights =
      LoadWeights(metadata.value(), cache.value(), MakePackFn(library.value()), progress);
  if (!weights.ok()) {
    return weights.error();
  }
  return std::unique_ptr<TvmRunner>(
      new TvmRunner(std::make_unique<Impl>(std::move(metadata).value(), std::move(library).value(),
                                           std::move(pool), std::move(weights).value())));
}

Status TvmRunner::AllocateKv(int32_t num_pages) {
  Impl& self = *impl_;
  // Write slots are int32.
  constexpr int32_t kMaxPages = std::numeric_limits<int32_t>::max() / kPageSize;
  if (num_pages < 1 || num_pages > kMaxPages) {
    return Error{ErrorCode::kInvalidValue, "num_pages",
                 "num_pages must be 1 to " + std::to_string(kMaxPages) + ", got " +
                     std::to_string(num_pages)};
  }
  const LibraryMetadata& metadata = self.metadata;
  // The old pages first: there may not be room for both.
  self.num_pages = 0;
  self.kv_tensor = ffi::Tensor();
  self.kv = HostMemory();
  Result<HostMemory> memory =
      HostMemory::Allocate(num_pages * metadata.kv_bytes_per_page, "the KV cache", "num_pages");
  if (!memory.ok()) {
    return memory.error();
  }
  self.kv = std::move(memory).value();
  self.kv_tensor = ViewTensor(self.kv.data(),
                              {metadata.num_layers, num_pages, metadata.num_kv_heads, 2,
                               int64_t{kPageSize} * metadata.head_dim},
                              DataType::kFloat16);
  self.num_pages = num_pages;
  return std::nullopt;
}

void TvmRunner::Impl::DropOutput() {
  output = nullptr;
  library.metadata();  // the virtual machine too keeps what was last returned
}

void TvmRunner::Impl::CopyPages(const std::vector<int32_t>& pages) {
  const int64_t bytes = metadata.kv_bytes_per_page / metadata.num_layers;
  for (int64_t layer = 0; layer < metadata.num_layers; ++layer) {
    uint8_t* const first = kv.data() + layer * num_pages * bytes;
    for (size_t i = 0; i < pages.size(); i += 2) {
      std::memmove(first + pages[i + 1] * bytes, first + pages[i] * bytes,
                   static_cast<size_t>(bytes));
    }
  }
}

void TvmRunner::Impl::Call() {
  const std::array<ffi::AnyView, kNumArguments> arguments = {tables.token_ids.tensor(),
                                                             tables.positions.tensor(),
                                                             tables.write_slots.tensor(),
                                                             tables.page_offsets.tensor(),
                                                             tables.page_table.tensor(),
                                                             tables.attention_items.tensor(),
                                                             tables.combine_items.tensor(),
                                                             tables.logit_rows.tensor(),
                                                             kv_tensor,
                                                             weights_tensor};
  const ParallelScope scope(pool.get());
  try {
    library.forward.CallPacked(arguments.data(), kNumArguments, &output);
  } catch (const ffi::Error& error) {
    throw InvariantError("the model library failed: " + error.message());
  }
}

LogitsView TvmRunner::Impl::View(int32_t rows) const {
  const auto tensor = output.try_cast<ffi::Tensor>();
  MLC_CHECK(tensor.has_value()) << "forward returned no tensor";
  const DLDataType dtype = tensor->dtype();
  MLC_CHECK(tensor->ndim() == 2 && tensor->size(0) == rows && tensor->size(1) == info.vocab_size &&
            dtype.code == kDLFloat && dtype.bits == 32 && dtype.lanes == 1 &&
            tensor->IsContiguous())
      << "forward returned logits of another shape or type than [" << rows << ", "
      << info.vocab_size << "] float32";
  const auto* data = static_cast<const uint8_t*>(tensor->data_ptr()) + tensor->byte_offset();
  return LogitsView{reinterpret_cast<const float*>(data), rows, info.vocab_size};
}

LogitsView TvmRunner::Run(const ModelInput& input) {
  Impl& self = *impl_;
  MLC_CHECK(self.num_pages > 0) << "Run() before AllocateKv()";
  // Kernels trust the tables: a bad one would write outside the KV memory.
  if (Status status = ValidateModelInput(input, self.info, self.num_pages)) {
    MLC_CHECK(false) << status->param << " " << status->message;
  }
  const size_t num_sequences = input.query_offsets.size() - 1;
  MLC_CHECK(num_sequences <= static_cast<size_t>(self.metadata.max_sequences))
      << num_sequences << " sequences, the library takes " << self.metadata.max_sequences;
  self.DropOutput();
  PlanAttention(input, self.plan_limits, &self.plan);
  self.tables.Fill(input, self.plan);
  self.CopyPages(input.page_copies);
  self.Call();
  return self.View(static_cast<int32_t>(input.logit_rows.size()));
}

double MeasureEmptyRegionNs(int32_t num_threads, int32_t num_tasks, int32_t repeats) {
  ThreadPool pool(num_threads);
  const ParallelScope scope(&pool);
  const auto empty = [](int32_t, int32_t, void*) { return 0; };
  pool.Run(empty, nullptr, num_tasks);
  const auto start = std::chrono::steady_clock::now();
  for (int32_t i = 0; i < repeats; ++i) {
    pool.Run(empty, nullptr, num_tasks);
  }
  const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count() / repeats;
}

}  // namespace mlc_server
