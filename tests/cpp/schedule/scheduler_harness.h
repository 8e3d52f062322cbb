#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "kv/page_pool.h"
#include "schedule/scheduler.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {

// A scheduler with its pool and sequences, stepped by hand.
class SchedulerHarness {
 public:
  SchedulerHarness(int32_t num_pages, int32_t max_batch_size, int32_t prefill_chunk_size,
                   int32_t scored_rows_max = 64)
      : config_(Config(num_pages, max_batch_size, prefill_chunk_size, scored_rows_max)),
        pool(num_pages),
        scheduler(config_, &pool) {}

  static constexpr int32_t kPageSize = 4;

  static std::shared_ptr<Request> MakeRequest(int32_t prompt_length, int32_t num_choices = 1,
                                              int32_t priority = 0) {
    auto request = std::make_shared<Request>();
    request->prompt_ids.assign(prompt_length, 1);
    request->num_choices = num_choices;
    request->priority = priority;
    return request;
  }

  // Adds the next sequence (ids from 1), or one with an id of the caller's.
  Sequence* Add(std::shared_ptr<const Request> request, SequenceId id = 0, int32_t choice = 0) {
    sequences_.push_back(std::make_unique<Sequence>());
    Sequence* sequence = sequences_.back().get();
    sequence->choice = choice;
    sequence->id = id != 0 ? id : sequences_.size();
    sequence->tokens = request->prompt_ids;
    sequence->request = std::move(request);
    scheduler.Add(sequence);
    return sequence;
  }
  Sequence* Add(int32_t prompt_length, int32_t priority = 0) {
    return Add(MakeRequest(prompt_length, 1, priority));
  }

  // One step; every sequence whose logits were wanted gets a token, which is no draft's unless
  // `num_right` of those that ran are right. Returns the step's batch.
  Batch Step(int32_t num_right = 0) {
    Batch batch = scheduler.Schedule();
    scheduler.CheckIntegrity();
    scheduler.Commit(batch);
    for (const BatchEntry& entry : batch.entries) {
      if (entry.wants_logits) {
        const int32_t kept = std::min(num_right, entry.num_drafts);
        entry.sequence->tokens.insert(entry.sequence->tokens.end(), kept + 1, 2);
        if (entry.num_drafts > 0) {
          scheduler.KeepDrafts(entry.sequence, kept);
        }
      }
    }
    scheduler.CheckIntegrity();
    pool.CheckIntegrity();
    return batch;
  }

 private:
  static EngineConfig Config(int32_t num_pages, int32_t max_batch_size, int32_t prefill_chunk_size,
                             int32_t scored_rows_max) {
    EngineConfig config;
    config.page_size = kPageSize;
    config.num_pages = num_pages;
    config.max_batch_size = max_batch_size;
    config.prefill_chunk_size = prefill_chunk_size;
    config.scored_rows_max = scored_rows_max;
    return config;
  }

  EngineConfig config_;
  std::vector<std::unique_ptr<Sequence>> sequences_;

 public:
  PagePool pool;
  Scheduler scheduler;
};

// "id:first+count" of every entry, its scored tokens as "(first+count)", "!" where logits are
// wanted, in the order of the batch.
inline std::string Describe(const Batch& batch) {
  std::string text;
  for (const BatchEntry& entry : batch.entries) {
    text += (text.empty() ? "" : " ") + std::to_string(entry.sequence->id) + ":" +
            std::to_string(entry.first_token) + "+" + std::to_string(entry.num_tokens) +
            (entry.num_drafts > 0 ? "+" + std::to_string(entry.num_drafts) + "d" : "") +
            (entry.num_scored > 0 ? "(" + std::to_string(entry.first_scored) + "+" +
                                        std::to_string(entry.num_scored) + ")"
                                  : "") +
            (entry.wants_logits ? "!" : "");
  }
  return text;
}

// "from>to" of every copy, in order.
inline std::string DescribeCopies(const Batch& batch) {
  std::string text;
  for (const PageCopy& copy : batch.copies) {
    text += (text.empty() ? "" : " ") + std::to_string(copy.from) + ">" + std::to_string(copy.to);
  }
  return text;
}

// Ids of the preempted sequences, first preempted first.
inline std::vector<SequenceId> PreemptedIds(const Batch& batch) {
  std::vector<SequenceId> ids;
  for (const Sequence* sequence : batch.preempted) {
    ids.push_back(sequence->id);
  }
  return ids;
}

}  // namespace mlc_server::testing
