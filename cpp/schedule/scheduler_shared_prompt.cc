// The scheduler's part of sharing a prompt among the choices of a request.

#include <algorithm>

#include "schedule/scheduler.h"

namespace mlc_server {

// Without the prompt's last token, whose row must run: its logits are the first to be sampled.
int32_t Scheduler::SharedTokens(const Sequence& sequence) { return sequence.prompt_length() - 1; }

int32_t Scheduler::SharedPages(const Sequence& sequence) const {
  return SharedTokens(sequence) / config_.page_size;
}

// `candidate` is the waiting sequence whose turn it is.
Scheduler::PromptSource Scheduler::FindPromptSource(const Sequence& candidate, const Plan& plan,
                                                    const Sequence** source) const {
  const int32_t shared_tokens = SharedTokens(candidate);
  const bool scores_them = candidate.scored < std::min(shared_tokens, candidate.num_to_score());
  if (candidate.request->num_choices == 1 || shared_tokens == 0 || scores_them) {
    return PromptSource::kNone;
  }
  PromptSource found = PromptSource::kNone;
  for (size_t index = 0; index < running_.size(); ++index) {
    const Sequence* sibling = running_[index];
    if (sibling->request != candidate.request) {
      continue;
    }
    if (sibling->computed >= shared_tokens) {
      *source = sibling;
      return PromptSource::kRunning;
    }
    // One after it in order may be preempted for it, so it waits for none of those.
    if (index < plan.next_running) {
      found = PromptSource::kPending;
    }
  }
  for (size_t index = 0; index < plan.next_waiting; ++index) {
    if (waiting_[index]->request == candidate.request) {
      found = PromptSource::kPending;
    }
  }
  return found;
}

void Scheduler::TakeSharedPages(Sequence* sequence, const Sequence& source) {
  const int32_t num_pages = SharedPages(*sequence);
  sequence->pages.assign(source.pages.begin(), source.pages.begin() + num_pages);
  for (PageId page : sequence->pages) {
    pool_->AddReference(page);
  }
  sequence->computed = num_pages * config_.page_size;
}

// The sequence gets a page with what `source` holds of the prompt past the shared pages. False and
// no change when there is none to be had; then it computes that part itself.
bool Scheduler::CopyLastPage(Sequence* sequence, PageId source, Plan* plan) {
  if (!pool_->AllocateOnto(&sequence->pages, 1)) {
    return false;
  }
  if (sequence->pages.back() != source) {  // else it was given up for this sequence just now
    plan->batch.copies.push_back({source, sequence->pages.back()});
  }
  sequence->computed = SharedTokens(*sequence);
  return true;
}

// The waiting choice of the same request that goes on with the prompt of `sequence`, which is being
// removed; null when there is none, or no prompt to go on with.
Sequence* Scheduler::FindHeir(const Sequence& sequence) const {
  const int32_t tokens = SharedTokens(sequence);
  if (sequence.request->num_choices == 1 || tokens == 0 || sequence.computed < tokens) {
    return nullptr;
  }
  for (const Sequence* other : running_) {
    if (other->request == sequence.request && other->computed >= tokens) {
      return nullptr;  // which has the prompt as well
    }
  }
  for (Sequence* other : waiting_) {
    if (other->request == sequence.request &&
        other->scored >= std::min(tokens, other->num_to_score())) {
      return other;
    }
  }
  return nullptr;
}

// The waiting `heir` runs in the seat of `sequence`, which is out of `running_`, and takes its
// pages of the prompt over. Allocates nothing, so that removing cannot fail.
void Scheduler::Inherit(Sequence* heir, Sequence* sequence) {
  const auto num_pages = static_cast<size_t>(PagesFor(SharedTokens(*sequence)));
  while (sequence->pages.size() > num_pages) {
    pool_->Release(sequence->pages.back());
    sequence->pages.pop_back();
  }
  heir->pages.swap(sequence->pages);
  heir->computed = SharedTokens(*heir);
  heir->state = SequenceState::kRunning;
  waiting_.erase(std::find(waiting_.begin(), waiting_.end(), heir));
  running_.insert(std::lower_bound(running_.begin(), running_.end(), heir, Before), heir);
}

}  // namespace mlc_server
