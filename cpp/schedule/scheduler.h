#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "core/engine_config.h"
#include "core/sequence.h"
#include "kv/page_pool.h"

namespace mlc_server {

// One sequence's part of a step: run tokens [first_token, first_token + num_tokens).
struct BatchEntry {
  Sequence* sequence = nullptr;
  int32_t first_token = 0;
  int32_t num_tokens = 0;
  // True when the run reaches the end of `tokens`: the last row's logits are sampled.
  bool wants_logits = false;
};

// What one step runs, in the order its rows are laid out, and who lost their pages to make room.
struct Batch {
  std::vector<BatchEntry> entries;
  std::vector<Sequence*> preempted;
  int32_t num_tokens = 0;
};

// Decides which tokens of which sequences run next and owns their pages meanwhile.
// No I/O, no clock, no randomness: the same calls give the same batches.
//
// Decode first (every running sequence gets its next token), then prefill chunks in order of
// (priority, arrival) until the token budget or the batch is full. When pages run out, the last
// running sequence in that order is preempted: its pages are released and it is recomputed later
// from its tokens. The first sequence in order can always run: Request::Validate() admits nothing
// that the whole pool could not hold.
class Scheduler {
 public:
  Scheduler(const EngineConfig& config, PagePool* pool);

  // Takes a sequence in state kWaiting. The caller keeps it alive until Remove().
  void Add(Sequence* sequence);
  // Takes a sequence out, whatever its state, and releases its pages. State becomes kFinished.
  void Remove(Sequence* sequence);
  // The next batch; empty when nothing can run. Pages for every entry are allocated on return.
  Batch Schedule();
  // Records that the batch ran: `computed` moves on. Call before tokens are appended.
  void Commit(const Batch& batch);

  int32_t num_waiting() const;
  int32_t num_running() const;

  // Pages of running sequences cover `computed` exactly, the pool's counts equal what sequences
  // hold, states match the queues, and limits hold.
  void CheckIntegrity() const;

 private:
  EngineConfig config_;
  PagePool* pool_;
  std::deque<Sequence*> waiting_;   // ordered by (priority, id)
  std::vector<Sequence*> running_;  // ordered by (priority, id)
};

}  // namespace mlc_server
