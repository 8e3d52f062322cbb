#include <algorithm>
#include <vector>

#include "base/check.h"
#include "schedule/scheduler.h"

namespace mlc_server {

void Scheduler::CheckIntegrity() const {
  CheckQueues();
  CheckOwners();
}

void Scheduler::CheckQueues() const {
  const auto check_order = [](const auto& queue) {
    for (size_t index = 1; index < queue.size(); ++index) {
      MLC_CHECK(Before(queue[index - 1], queue[index]))
          << "sequences " << queue[index - 1]->id << " and " << queue[index]->id;
    }
  };
  check_order(waiting_);
  check_order(running_);
  for (const Sequence* sequence : waiting_) {
    MLC_CHECK(sequence->state == SequenceState::kWaiting) << "sequence " << sequence->id;
    MLC_CHECK(sequence->computed == 0 && sequence->in_flight == 0 &&
              sequence->drafts_in_flight == 0 && sequence->pages.empty())
        << "waiting sequence " << sequence->id << " holds " << sequence->pages.size() << " pages";
  }
  MLC_CHECK(num_running() <= max_running_) << num_running() << " running, limit " << max_running_;
  int32_t num_in_flight = 0;
  int32_t tokens_in_flight = 0;
  for (const Sequence* sequence : running_) {
    MLC_CHECK(sequence->state == SequenceState::kRunning) << "sequence " << sequence->id;
    MLC_CHECK(sequence->computed >= 0 && sequence->in_flight >= 0 &&
              sequence->computed + sequence->in_flight <= sequence->length())
        << "sequence " << sequence->id << " of " << sequence->length()
        << " tokens: " << sequence->computed << " computed, " << sequence->in_flight
        << " in flight";
    MLC_CHECK(static_cast<int32_t>(sequence->pages.size()) ==
              PagesFor(sequence->computed + sequence->in_flight + sequence->drafts_in_flight))
        << "sequence " << sequence->id << " holds " << sequence->pages.size() << " pages for "
        << sequence->computed << " + " << sequence->in_flight << " tokens and "
        << sequence->drafts_in_flight << " drafts";
    MLC_CHECK(sequence->scored >= std::min(sequence->computed, sequence->num_to_score()) &&
              sequence->scored <= sequence->num_to_score())
        << "sequence " << sequence->id << " with " << sequence->computed << " tokens computed has "
        << sequence->scored << " of " << sequence->num_to_score() << " scored";
    num_in_flight += sequence->in_flight > 0 ? 1 : 0;
    tokens_in_flight += sequence->in_flight + sequence->drafts_in_flight;
  }
  MLC_CHECK(num_in_flight == num_in_flight_) << num_in_flight << " and " << num_in_flight_;
  MLC_CHECK(tokens_in_flight <= config_.prefill_chunk_size)
      << tokens_in_flight << " tokens in flight, limit " << config_.prefill_chunk_size;
  MLC_CHECK(chunks_.empty()) << chunks_.size() << " entries left in scratch";
}

void Scheduler::CheckOwners() const {
  struct Owners {
    int32_t count = 0;
    const Sequence* first = nullptr;
    size_t index = 0;  // of the page in the first owner's list
  };
  std::vector<Owners> owners(pool_->num_pages());
  int32_t num_owned = 0;
  for (const Sequence* sequence : running_) {
    for (size_t index = 0; index < sequence->pages.size(); ++index) {
      const PageId page = sequence->pages[index];
      MLC_CHECK(page >= 0 && page < pool_->num_pages()) << "page " << page;
      Owners& owner = owners[page];
      if (owner.count == 0) {
        owner = {0, sequence, index};
        ++num_owned;
      } else {
        MLC_CHECK(owner.first->request == sequence->request && owner.index == index &&
                  static_cast<int32_t>(index) < SharedPages(*sequence))
            << "page " << page << " is page " << owner.index << " of sequence " << owner.first->id
            << " and page " << index << " of sequence " << sequence->id;
      }
      ++owner.count;
    }
  }
  for (PageId page = 0; page < pool_->num_pages(); ++page) {
    MLC_CHECK(pool_->reference_count(page) == owners[page].count)
        << "page " << page << " has " << pool_->reference_count(page) << " references and "
        << owners[page].count << " owners";
    MLC_CHECK(releases_[page] == 0) << "page " << page << " left in scratch";
  }
  MLC_CHECK(num_owned + pool_->num_free() == pool_->num_pages())
      << num_owned << " pages owned, " << pool_->num_free() << " free, " << pool_->num_pages();
}

}  // namespace mlc_server
