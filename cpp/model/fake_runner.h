#pragma once

#include <cstdint>
#include <vector>

#include "model/model_runner.h"

namespace mlc_server {

// What a FakeRunner pretends to be and when it misbehaves.
struct FakeRunnerOptions {
  int32_t vocab_size = 256;
  int32_t page_size = 16;  // tokens per KV page
  int32_t max_rows = 4096;
  int32_t max_logit_rows = 512;
  int32_t context_window = 8192;
  // Each Run() takes at least this long; it sleeps.
  int64_t step_ns = 0;
  // The Run() with this index (from 0) throws std::runtime_error. -1 is never.
  int64_t throw_at_step = -1;
  // Token that ends generation, and how likely each position is to want it. -1 is none.
  int32_t eos_token_id = -1;
  double eos_probability = 0.0;
  // A sequence with this token in its context gets NaN logits. -1 is none.
  int32_t poison_token_id = -1;
  // How likely a row is to favour the token that followed the latest earlier occurrence of its own:
  // text that copies itself.
  double copy_probability = 0.0;

  Status Validate() const;
};

// A model without a model. The logits of a row are a hash of its whole context, read back through
// the page table from the fake KV pages that earlier rows wrote, so a wrong page table, a stale
// page or a missing recomputation changes the output. Each slot remembers a hash of (slot before
// it, token, position) from the time it was written: KV computed on a wrong context is wrong too.
// Reading a slot that was never written, or that holds another position, trips an MLC_CHECK.
class FakeRunner final : public ModelRunner {
 public:
  // `options` passed Validate().
  explicit FakeRunner(const FakeRunnerOptions& options);

  const ModelInfo& info() const override { return info_; }
  Status AllocateKv(int32_t num_pages) override;
  LogitsView Run(const ModelInput& input) override;

  int64_t num_steps() const { return num_steps_; }

 private:
  struct Slot {
    uint64_t state = 0;
    int32_t token_id = -1;
    int32_t position = -1;  // -1 until written
  };

  const Slot& Read(const ModelInput& input, size_t sequence, int32_t position) const;
  void WriteSequence(const ModelInput& input, size_t sequence);
  void FillLogits(const ModelInput& input, size_t sequence, int32_t row, float* logits) const;

  FakeRunnerOptions options_;
  ModelInfo info_;
  std::vector<Slot> slots_;  // [num_pages * page_size]
  std::vector<float> logits_;
  int64_t num_steps_ = 0;
};

}  // namespace mlc_server
