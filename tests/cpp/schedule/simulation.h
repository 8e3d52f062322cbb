#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "cpp/schedule/shadow_kv.h"
#include "kv/page_pool.h"
#include "schedule/scheduler.h"

namespace mlc_server::testing {

// What happened, so that a test can see that a simulation exercised what it claims to.
struct SimulationStats {
  int64_t steps = 0;
  int64_t tokens = 0;
  int64_t arrived = 0;              // sequences
  int64_t finished = 0;             // by reaching their end
  int64_t cancelled = 0;            // before Schedule()
  int64_t cancelled_in_flight = 0;  // between Schedule() and Commit()
  int64_t preempted = 0;
  int64_t allocation_faults = 0;
  int64_t copies = 0;            // of pages that siblings have a part of their prompt in
  int64_t heirs = 0;             // sequences that took over the pages of one that was removed
  int64_t shared_starts = 0;     // sequences that started with a sibling's pages
  int64_t waits_for_prompt = 0;  // steps in which a sequence waited for a sibling's prompt
  int64_t drafts = 0;            // that ran
  int64_t drafts_kept = 0;
  int64_t draft_pages = 0;  // taken for drafts alone
  int64_t scored = 0;
  int64_t waits_for_scores = 0;  // steps in which a sequence lacked rows to be scored
  uint64_t trace = 0;            // hash of every batch, pages included
  void Add(const SimulationStats& other);
};

// Drives a Scheduler and a PagePool as an engine would, with everything drawn from `seed`: sizes of
// the pool and of the batch, arrivals, prompt and output lengths, priorities, choices,
// cancellations, drafts, scores and failing allocations. Checks every step against the contract in
// scheduler.h and every slot that a step reads against ShadowKv. A broken expectation throws.
class Simulation {
 public:
  Simulation(uint64_t seed, int32_t num_steps);
  ~Simulation();

  // `num_steps` eventful steps, then steps without arrivals, cancellations and faults until every
  // sequence has finished.
  const SimulationStats& Run();

 private:
  struct Live {
    std::unique_ptr<Sequence> sequence;
    std::vector<uint64_t> prefix_hashes;  // [length] of tokens[0, i]
    int32_t final_length = 0;             // it ends when it has this many tokens
    int32_t scored = 0;                   // prompt tokens whose logits have been asked for
    bool was_running = false;             // before this step's Schedule()
    int32_t was_lacking = 0;              // tokens it lacked then
  };

  void DrawConfig();
  void Arrive();
  void CancelSome();
  void Step(bool eventful);
  void RunModel(const Batch& batch);
  void AppendTokens(const Batch& batch);
  void CancelInFlight(Batch* batch);
  void DraftSome();
  void AppendDrawn(const BatchEntry& entry);

  void CheckEntries(const Batch& batch) const;
  void CheckDrafts(const Batch& batch) const;
  void CheckScores(const Batch& batch) const;
  void CheckPreempted(const Batch& batch) const;
  void CheckProgress(const Batch& batch) const;
  void CheckWorkIsConserved(const Batch& batch);
  void CheckSharing(const Batch& batch);
  void CheckOwners() const;

  void AppendToken(Live* live, int32_t token);
  void Erase(size_t index);
  Live* Find(const Sequence* sequence);
  const Live* Find(const Sequence* sequence) const;
  const BatchEntry* FindEntry(const Batch& batch, const Sequence* sequence) const;
  int32_t Draw(int32_t low, int32_t high);  // uniform in [low, high]
  bool Chance(double probability);
  int32_t PagesFor(int32_t num_tokens) const;
  int32_t NumToScore(const Sequence& sequence) const;
  int32_t max_running() const;
  bool Before(const Sequence& a, const Sequence& b) const;

  std::mt19937_64 random_;
  int32_t num_steps_;
  EngineConfig config_;
  double arrival_chance_ = 0;
  double cancel_chance_ = 0;
  double fault_chance_ = 0;
  double choices_chance_ = 0;
  double draft_chance_ = 0;
  double score_chance_ = 0;
  int32_t num_priorities_ = 1;
  int32_t max_live_ = 0;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<ShadowKv> kv_;
  std::vector<Live> live_;  // sorted by (priority, id)
  SequenceId next_id_ = 1;
  bool faulted_ = false;  // an allocation failed in this step
  SimulationStats stats_;
};

}  // namespace mlc_server::testing
