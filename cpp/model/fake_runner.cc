#include "model/fake_runner.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include "base/check.h"
#include "model/model_input.h"

namespace mlc_server {
namespace {

constexpr uint64_t kEmptyContext = 0x9e3779b97f4a7c15ULL;
constexpr uint64_t kEosStream = 0x5851f42d4c957f2dULL;
// Logits are spread evenly over [-kLogitRange, kLogitRange); EOS is forced from outside of it.
constexpr float kLogitRange = 8.0f;
constexpr uint64_t kCopyStream = 0x2545f4914f6cdd1dULL;
constexpr float kCopiedLogit = 12.0f;
constexpr float kForcedLogit = 100.0f;

// Finaliser of SplitMix64 (Steele, Lea, Flood, 2014): a bijection whose output bits are well mixed.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// Uniform in [0, 1).
double ToUnit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }

ModelInfo MakeInfo(const FakeRunnerOptions& options) {
  ModelInfo info;
  info.vocab_size = options.vocab_size;
  info.page_size = options.page_size;
  info.max_rows = options.max_rows;
  info.max_logit_rows = options.max_logit_rows;
  info.context_window = options.context_window;
  info.bytes_per_page = static_cast<int64_t>(options.page_size) * 16;
  return info;
}

}  // namespace

Status FakeRunnerOptions::Validate() const {
  constexpr int64_t kMaxSize = 1 << 20;
  const struct {
    const char* name;
    int64_t value, low, high;
  } ranges[] = {
      {"vocab_size", vocab_size, 2, kMaxSize},
      {"page_size", page_size, 1, 1024},
      {"max_rows", max_rows, 1, kMaxSize},
      {"max_logit_rows", max_logit_rows, 1, kMaxSize},
      {"context_window", context_window, 2, kMaxSize},
      {"step_ns", step_ns, 0, 60'000'000'000},
      {"throw_at_step", throw_at_step, -1, std::numeric_limits<int64_t>::max()},
      {"eos_token_id", eos_token_id, -1, vocab_size - 1},
      {"poison_token_id", poison_token_id, -1, vocab_size - 1},
  };
  for (const auto& range : ranges) {
    if (range.value < range.low || range.value > range.high) {
      return Error{ErrorCode::kInvalidValue, range.name,
                   "must be in [" + std::to_string(range.low) + ", " + std::to_string(range.high) +
                       "], got " + std::to_string(range.value)};
    }
  }
  if (!(eos_probability >= 0.0 && eos_probability <= 1.0)) {
    return Error{ErrorCode::kInvalidValue, "eos_probability",
                 "must be in [0, 1], got " + std::to_string(eos_probability)};
  }
  if (!(copy_probability >= 0.0 && copy_probability <= 1.0)) {
    return Error{ErrorCode::kInvalidValue, "copy_probability",
                 "must be in [0, 1], got " + std::to_string(copy_probability)};
  }
  return std::nullopt;
}

FakeRunner::FakeRunner(const FakeRunnerOptions& options)
    : options_(options), info_(MakeInfo(options)) {
  const Status status = options.Validate();
  MLC_CHECK(!status) << status->param << " " << status->message;
}

Status FakeRunner::AllocateKv(int32_t num_pages) {
  if (num_pages < 1) {
    return Error{ErrorCode::kInvalidValue, "num_pages",
                 "must be at least 1, got " + std::to_string(num_pages)};
  }
  slots_.assign(static_cast<size_t>(num_pages) * options_.page_size, Slot());
  return std::nullopt;
}

LogitsView FakeRunner::Run(const ModelInput& input) {
  const int32_t num_pages = static_cast<int32_t>(slots_.size()) / options_.page_size;
  const Status status = ValidateModelInput(input, info_, num_pages);
  MLC_CHECK(!status) << status->param << " " << status->message;
  if (num_steps_++ == options_.throw_at_step) {
    throw std::runtime_error("injected fault at step " + std::to_string(options_.throw_at_step));
  }
  for (size_t i = 0; i < input.page_copies.size(); i += 2) {
    const int64_t from = int64_t{input.page_copies[i]} * options_.page_size;
    const int64_t to = int64_t{input.page_copies[i + 1]} * options_.page_size;
    std::copy_n(slots_.begin() + from, options_.page_size, slots_.begin() + to);
  }
  const size_t num_sequences = input.query_offsets.size() - 1;
  for (size_t sequence = 0; sequence < num_sequences; ++sequence) {
    WriteSequence(input, sequence);
  }
  logits_.resize(input.logit_rows.size() * static_cast<size_t>(options_.vocab_size));
  for (size_t l = 0; l < input.logit_rows.size(); ++l) {
    const int32_t row = input.logit_rows[l];
    const auto end = std::upper_bound(input.query_offsets.begin(), input.query_offsets.end(), row);
    FillLogits(input, static_cast<size_t>(end - input.query_offsets.begin()) - 1, row,
               &logits_[l * options_.vocab_size]);
  }
  if (options_.step_ns > 0) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(options_.step_ns));
  }
  return {logits_.data(), static_cast<int32_t>(input.logit_rows.size()), options_.vocab_size};
}

const FakeRunner::Slot& FakeRunner::Read(const ModelInput& input, size_t sequence,
                                         int32_t position) const {
  const int32_t page_size = options_.page_size;
  const int32_t page = input.page_table[input.page_offsets[sequence] + position / page_size];
  const Slot& slot = slots_[static_cast<size_t>(page) * page_size + position % page_size];
  MLC_CHECK(slot.position == position)
      << "KV of position " << position << " is read from page " << page << ", which holds position "
      << slot.position << " there";
  return slot;
}

void FakeRunner::WriteSequence(const ModelInput& input, size_t sequence) {
  for (int32_t row = input.query_offsets[sequence]; row < input.query_offsets[sequence + 1];
       ++row) {
    const int32_t position = input.positions[row];
    const uint64_t before =
        position == 0 ? kEmptyContext : Read(input, sequence, position - 1).state;
    Slot& slot = slots_[input.write_slots[row]];
    slot.token_id = input.token_ids[row];
    slot.position = position;
    slot.state = Mix(before ^ Mix(static_cast<uint64_t>(slot.token_id) << 32 | position));
  }
}

void FakeRunner::FillLogits(const ModelInput& input, size_t sequence, int32_t row,
                            float* logits) const {
  uint64_t context = kEmptyContext;
  bool poisoned = false;
  for (int32_t position = 0; position <= input.positions[row]; ++position) {
    const Slot& slot = Read(input, sequence, position);
    context = Mix(context ^ slot.state);
    poisoned = poisoned || (slot.token_id == options_.poison_token_id);
  }
  if (poisoned) {
    std::fill_n(logits, options_.vocab_size, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  for (int32_t id = 0; id < options_.vocab_size; ++id) {
    const double unit = ToUnit(Mix(context + static_cast<uint64_t>(id)));
    logits[id] = kLogitRange * static_cast<float>(2.0 * unit - 1.0);
  }
  if (options_.copy_probability > 0.0 &&
      ToUnit(Mix(context ^ kCopyStream)) < options_.copy_probability) {
    const int32_t token_id = Read(input, sequence, input.positions[row]).token_id;
    int32_t position = input.positions[row] - 1;
    while (position >= 0 && Read(input, sequence, position).token_id != token_id) {
      --position;
    }
    if (position >= 0) {
      logits[Read(input, sequence, position + 1).token_id] = kCopiedLogit;
    }
  }
  if (options_.eos_token_id >= 0) {
    const bool wanted = ToUnit(Mix(context ^ kEosStream)) < options_.eos_probability;
    logits[options_.eos_token_id] = wanted ? kForcedLogit : -kForcedLogit;
  }
}

}  // namespace mlc_server
