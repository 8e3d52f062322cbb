// Engine: how requests and the engine itself end, and the books that are kept of it.

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "engine/engine.h"

namespace mlc_server {

void Engine::EraseFinished() {
  for (const RequestId request_id : finished_) {
    if (!Find(request_id)->started) {
      inbox_.NoteStarted(1);
    }
    requests_.erase(request_id);
    inbox_.NoteFinished(request_id);
  }
  finished_.clear();
}

void Engine::End(State state, const std::string& reason, const std::string& client_error) {
  {
    std::lock_guard<std::mutex> lock(health_mutex_);
    if (state_ != State::kServing) {
      return;
    }
    state_ = state;
    end_reason_ = reason;
  }
  // The scheduler's state may be what broke, so it is not asked for anything any more.
  for (const auto& [request_id, open] : requests_) {
    for (const std::unique_ptr<Generation>& choice : open->choices) {
      if (choice->state != SequenceState::kFinished) {
        items_.push_back(choice->MakeItem());
        items_.back().finish_reason = FinishReason::kError;
        items_.back().error = client_error;
        CountFinish(FinishReason::kError);
      }
    }
  }
  for (; next_command_ < commands_.size(); ++next_command_) {
    // The one that failed may have been opened, and answered above.
    const Command& command = commands_[next_command_];
    if (command.request != nullptr && Find(command.request_id) == nullptr) {
      Refuse(*command.request, client_error);
    }
  }
  for (const Command& command : inbox_.Close(client_error)) {
    if (command.request != nullptr) {
      Refuse(*command.request, client_error);
    }
  }
  following_.clear();
  outbox_.Publish(&items_);
  stats_.num_running = 0;
  stats_.num_open = 0;
  board_.Publish(stats_);
}

void Engine::Refuse(const Request& request, const std::string& error) {
  for (int32_t choice = 0; choice < request.num_choices; ++choice) {
    OutputItem item;
    item.request_id = request.id;
    item.choice = choice;
    item.finish_reason = FinishReason::kError;
    item.error = error;
    item.prompt_tokens = static_cast<int32_t>(request.prompt_ids.size());
    items_.push_back(std::move(item));
    CountFinish(FinishReason::kError);
  }
}

void Engine::ReserveOutput() {
  size_t num_choices = 0;
  for (const auto& [request_id, open] : requests_) {
    num_choices += open->choices.size();
  }
  items_.reserve(items_.size() + 2 * num_choices);
  finished_.reserve(requests_.size());
}

void Engine::CountFinish(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      ++stats_.finished_stop;
      return;
    case FinishReason::kLength:
      ++stats_.finished_length;
      return;
    case FinishReason::kCancelled:
      ++stats_.finished_cancelled;
      return;
    case FinishReason::kError:
      ++stats_.finished_error;
      return;
    case FinishReason::kNone:
      break;
  }
  MLC_CHECK(false) << "a choice ended without a reason";
}

void Engine::CountStep(const Batch& batch, int64_t step_ns) {
  ++stats_.num_steps;
  stats_.busy_ns += step_ns;
  stats_.last_step_ns = step_ns;
  stats_.last_batch_sequences = static_cast<int32_t>(batch.entries.size());
  stats_.last_batch_tokens = static_cast<int32_t>(input_.token_ids.size());
  for (const BatchEntry& entry : batch.entries) {
    const bool decodes =
        entry.num_tokens == 1 && entry.first_token >= entry.sequence->prompt_length();
    stats_.drafted_tokens += entry.num_drafts;
    stats_.prefill_tokens += decodes ? 0 : entry.num_tokens;
  }
}

void Engine::PublishStats() {
  stats_.num_running = scheduler_.num_running();
  stats_.num_open = static_cast<int32_t>(requests_.size());
  stats_.free_pages = pool_.num_free();
  stats_.total_pages = pool_.num_pages();
  board_.Publish(stats_);
}

void Engine::CheckIntegrity() const {
  pool_.CheckIntegrity();
  scheduler_.CheckIntegrity();
  for (const Generation* generation : following_) {
    MLC_CHECK(generation->state != SequenceState::kFinished &&
              (generation->unsettled || generation->held))
        << "sequence " << generation->id << " is followed for no reason";
  }
  int32_t open_choices = 0;
  for (const auto& [request_id, open] : requests_) {
    int32_t unfinished = 0;
    for (const std::unique_ptr<Generation>& choice : open->choices) {
      const bool is_open = choice->state != SequenceState::kFinished;
      unfinished += is_open ? 1 : 0;
      MLC_CHECK(!is_open || !(choice->unsettled || choice->held) ||
                std::count(following_.begin(), following_.end(), choice.get()) == 1)
          << "sequence " << choice->id << " waits for its grammar and is not followed";
    }
    MLC_CHECK(unfinished == open->num_open && unfinished > 0)
        << "request " << request_id << " counts " << open->num_open << " open choices, "
        << unfinished << " are";
    open_choices += unfinished;
  }
  MLC_CHECK(open_choices == scheduler_.num_waiting() + scheduler_.num_running())
      << open_choices << " choices are open, but the scheduler has " << scheduler_.num_waiting()
      << " waiting and " << scheduler_.num_running() << " running";
}

}  // namespace mlc_server
