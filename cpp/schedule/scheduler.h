#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "core/engine_config.h"
#include "core/sequence.h"
#include "kv/page_pool.h"

namespace mlc_server {

// One sequence's part of a step: run tokens [first_token, first_token + num_tokens), then the first
// `num_drafts` of its drafts.
struct BatchEntry {
  Sequence* sequence = nullptr;
  int32_t first_token = 0;
  int32_t num_tokens = 0;
  // True when the run reaches the end of `tokens`: the logits of the last token and of the drafts
  // are sampled.
  bool wants_logits = false;
  int32_t num_drafts = 0;
  // The logits of tokens [first_scored, first_scored + num_scored), which are among those that run,
  // give the log-probabilities of the tokens after them.
  int32_t first_scored = 0;
  int32_t num_scored = 0;

  int32_t num_rows() const { return num_tokens + num_drafts; }
  int32_t num_logit_rows() const { return num_scored + (wants_logits ? 1 + num_drafts : 0); }
};

// The KV in page `from` is to be in page `to` as well.
struct PageCopy {
  PageId from = 0;
  PageId to = 0;
};

// What one step runs, in the order its rows are laid out, and who lost their pages to make room.
struct Batch {
  std::vector<PageCopy> copies;  // to be made in this order, before any row is written
  std::vector<BatchEntry> entries;
  std::vector<Sequence*> preempted;
  int32_t num_tokens = 0;  // drafts included
};

// Decides which tokens of which sequences run next and owns their pages meanwhile.
// No I/O, no clock, no randomness: the same calls give the same batches.
//
// Everything follows one order: (priority, id), lower first.
//
// Budget. A step has at most prefill_chunk_size tokens and max_batch_size sequences (or
// prefill_chunk_size, where that is smaller: every sequence needs a token). Each running sequence
// that lacks one token (decode) gets it first; the rest of the budget goes to prefill chunks in
// order, running before new. Decode entries come first in the batch.
//
// Pages. A sequence takes pages as it grows. When there are none, the last running sequence after
// it in order is preempted: its pages are released, it waits in its place in the order, and is
// later recomputed from its tokens. A sequence with nobody after it sits the step out and keeps its
// pages. A waiting sequence starts when all its tokens fit and a page of growth for each running
// sequence before it, so that it is not preempted at once; those after it in order (of lower
// priority) are preempted for it if that is enough. Nobody overtakes a sequence that does not fit.
//
// Drafts. When everybody has been served, decode entries get rows for their drafts, in order, as
// far as speculative_rows_max, the budget and the free pages go. Nobody is preempted for a draft,
// and pages that only rejected drafts needed are free again before the next step.
//
// Scores. A prompt that is to be scored runs in chunks that keep the scored tokens of a step, over
// all sequences, within scored_rows_max. A waiting sequence that could only run scored tokens while
// there are no rows left for them keeps its place and a seat, but lets later ones pass. Each token
// is scored once: neither chunks nor preemption lose or repeat one.
//
// Held sequences keep their pages, as long as nobody before them needs these, and get no tokens.
//
// No starvation. The first sequence in order, unless held, gets tokens in every step, whatever it
// takes: MaxTokensPerSequence() keeps a sequence smaller than the pool. (A failing allocation may
// cost it the step, no more.)
//
// Shared prompts. Choices of one request (same Sequence::request) have the same prompt. The first
// choice in order computes it; the others keep their place and a seat in the batch, but wait, while
// later sequences may pass. Once a running choice has computed all but the last token, the waiting
// ones start with a reference to each page that it fills, [0, SharedPages()), and a copy of the
// next, if it has a part in that, and run only the tokens after: the prompt's last, whose logits
// each needs. No page with two owners is written to, because every owner's next token lies beyond
// it. If the choice they wait for is preempted or removed, the next one in order computes the
// prompt in its stead. If it is removed with the whole prompt (as when one token was all it was to
// generate), which no other running choice has, and is not in flight, then the first that waits and
// has nothing to score takes over its pages and its seat. That is the one start that asks nobody:
// sequences that wait before it may preempt it.
//
//     tokens   | prompt ............................ | generated
//     pages    | 0       | 1       | 2       | 3       | 4 ...
//              | shared by the choices       | copied  | each choice's own
class Scheduler {
 public:
  // `config` is valid; `pool` has config.num_pages pages, outlives the scheduler and serves nobody
  // else.
  Scheduler(const EngineConfig& config, PagePool* pool);

  // Takes a sequence in state kWaiting. The caller keeps it alive until Remove(), and ends it
  // before it outgrows config.MaxTokensPerSequence(). Ids are unique among the scheduler's
  // sequences.
  void Add(Sequence* sequence);
  // Takes a sequence out, whatever its state, and releases its pages, or hands those of the prompt
  // on (see Shared prompts). State becomes kFinished. Cannot fail for want of memory.
  // Allowed at any time; between Schedule() and Commit() the batch's entry becomes void.
  void Remove(Sequence* sequence);
  // The next batch; empty when nothing can run. Pages for every entry are allocated on return.
  // Each batch must be committed, or its sequences removed, before the next.
  Batch Schedule();
  // Records that the batch ran: `computed` moves on. Call before tokens are appended.
  void Commit(const Batch& batch);
  // The first `count` drafts that ran were right and have been appended to `tokens`: their KV
  // stays; the other drafts' pages are released. Call after Commit() for each running sequence that
  // ran drafts.
  void KeepDrafts(Sequence* sequence, int32_t count);
  // Nothing could be drawn after a running sequence's last token, so that it runs once more. Call
  // after Commit(), in place of KeepDrafts().
  void RunAgain(Sequence* sequence);

  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }

  // Pages of running sequences cover `computed` (and what is in flight, drafts too) exactly, only
  // whole prompt pages of one request are shared, the pool's counts equal what sequences hold,
  // states match the queues, and limits hold. Allowed at any time.
  void CheckIntegrity() const;

 private:
  // What one Schedule() has decided so far: a walk over running and waiting sequences in order.
  struct Plan {
    Batch batch;
    size_t next_running = 0;  // running sequences before this one have had their turn
    size_t next_waiting = 0;  // waiting sequences before this one are passed over in this step
    bool admitting = true;    // false once a waiting sequence did not fit
    int32_t tokens_left = 0;
    int32_t decodes_ahead = 0;  // sequences in running_[next_running, ...) that lack one token
    int32_t seats_kept = 0;     // for those that wait for a shared prompt or for scored rows
    int32_t scores_left = 0;
  };
  // Where a waiting sequence's first pages can come from.
  enum class PromptSource {
    kNone,     // it computes them itself
    kRunning,  // `Sequence*` holds them
    kPending,  // a choice before it in order is computing them, or waits for rows to score them
  };

  // The one order that everything follows.
  static bool Before(const Sequence* a, const Sequence* b);
  void VisitRunning(Plan* plan);
  void VisitWaiting(Plan* plan);
  bool MakeRoom(const Sequence& candidate, Plan* plan);
  int32_t Grow(Sequence* sequence, int32_t num_tokens, Plan* plan);
  void PreemptLast(Plan* plan);
  void AddDrafts(Batch* batch);
  void PassOver(Plan* plan) const;
  PromptSource FindPromptSource(const Sequence& candidate, const Plan& plan,
                                const Sequence** source) const;
  Sequence* FindHeir(const Sequence& sequence) const;
  void Inherit(Sequence* heir, Sequence* sequence);
  void TakeSharedPages(Sequence* sequence, const Sequence& source);
  bool CopyLastPage(Sequence* sequence, PageId source, Plan* plan);
  void ReleasePages(Sequence* sequence);

  int32_t PagesFor(int32_t num_tokens) const;
  static int32_t SharedTokens(const Sequence& sequence);
  int32_t SharedPages(const Sequence& sequence) const;
  int32_t PagesReclaimable(size_t first_running);
  void CheckQueues() const;
  void CheckOwners() const;

  EngineConfig config_;
  PagePool* pool_;
  int32_t max_running_;             // sequences
  std::deque<Sequence*> waiting_;   // in order
  std::vector<Sequence*> running_;  // in order
  std::vector<BatchEntry> chunks_;  // scratch: prefill entries, laid out after decode entries
  std::vector<int32_t> releases_;   // scratch: 0 for each page
  int32_t num_in_flight_ = 0;       // running sequences with in_flight > 0
};

}  // namespace mlc_server
