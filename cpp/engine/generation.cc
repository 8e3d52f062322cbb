#include "engine/generation.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace mlc_server {
namespace {

const std::vector<int32_t> kNoTokens;

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Generation::Generation(std::shared_ptr<const Request> request_in, int32_t choice_in,
                       SequenceId id_in, const Vocabulary* vocabulary, const EngineConfig& config,
                       GrammarWorkers* workers)
    : text(vocabulary, request_in->sampling.stop, request_in->sampling.include_stop_str_in_output,
           config.strip_leading_space && request_in->begins_text),
      workers_(workers) {
  const SamplingParams& sampling = request_in->sampling;
  id = id_in;
  request = std::move(request_in);
  choice = choice_in;
  tokens = request->prompt_ids;
  const bool ignores_eos = sampling.ignore_eos && request->grammar == nullptr;
  eos_token_ids_ = ignores_eos ? &kNoTokens : &config.eos_token_ids;
  if (sampling.min_tokens > 0) {
    ending_ids_ = *eos_token_ids_;
    ending_ids_.insert(ending_ids_.end(), sampling.stop_token_ids.begin(),
                       sampling.stop_token_ids.end());
  }
  if (sampling.repetition_penalty != 1.0) {
    for (const int32_t token_id : request->prompt_ids) {
      ++counts.prompt[token_id];
    }
  }
  if (request->grammar != nullptr) {
    follower = workers_->Begin(request->grammar);
  }
}

Generation::~Generation() {
  if (follower != nullptr) {
    workers_->Drop(std::move(follower));
  }
}

const std::vector<int32_t>& Generation::banned() const {
  return num_generated() < request->sampling.min_tokens ? ending_ids_ : kNoTokens;
}

const uint32_t* Generation::AllowedTokens() const {
  return follower == nullptr ? nullptr : follower->allowed();
}

bool Generation::Settle(GrammarProgress progress, OutputItem* item) {
  const bool is_known = progress == GrammarProgress::kKnown;
  if (is_known && follower->failure()) {
    throw std::runtime_error("the output cannot follow its grammar any further: " +
                             follower->failure()->message);
  }
  if (std::exchange(unsettled, false)) {
    if (is_known && follower->is_complete()) {
      item->finish_reason = FinishReason::kStop;
    } else if (is_full_) {
      item->finish_reason = FinishReason::kLength;
    }
  }
  if (item->finish_reason == FinishReason::kNone) {
    return false;
  }
  item->text += text.Flush();
  return true;
}

OutputItem Generation::MakeItem() const {
  OutputItem item;
  item.request_id = request->id;
  item.choice = choice;
  item.events = request->events;
  item.prompt_tokens = prompt_length();
  item.completion_tokens = num_generated();
  return item;
}

bool Generation::EndsAt(int32_t token_id, OutputItem* item) const {
  if (Contains(*eos_token_ids_, token_id)) {
    item->finish_reason = FinishReason::kStop;
    return true;
  }
  if (Contains(request->sampling.stop_token_ids, token_id)) {
    item->finish_reason = FinishReason::kStop;
    item->stop_token_id = token_id;
    return true;
  }
  return false;
}

void Generation::Append(SampleResult&& drawn, int32_t limit, OutputItem* item) {
  const SamplingParams& sampling = request->sampling;
  const int32_t token_id = drawn.token_id;
  tokens.push_back(token_id);
  ++counts.generated[token_id];
  item->token_ids.push_back(token_id);
  item->completion_tokens = num_generated();
  if (sampling.top_logprobs >= 0) {
    item->logprobs.push_back({drawn.logprob, std::move(drawn.alternatives)});
  }
  // A token that ends generation is no part of the text, unless stops are asked for.
  const bool ends = EndsAt(token_id, item);
  if (!ends || (item->stop_token_id >= 0 && sampling.include_stop_str_in_output)) {
    item->text += text.Append(token_id, num_generated() >= sampling.min_tokens);
  }
  if (!ends && text.matched_stop() >= 0) {
    item->finish_reason = FinishReason::kStop;
    item->stop_string = sampling.stop[text.matched_stop()];
  } else if (!ends) {
    is_full_ = num_generated() == sampling.max_tokens || length() >= limit;
    if (follower != nullptr) {
      workers_->Advance(follower, token_id, is_full_);
      unsettled = true;
      held = is_full_;
    } else if (is_full_) {
      item->finish_reason = FinishReason::kLength;
    }
  }
  if (item->finish_reason != FinishReason::kNone) {
    item->text += text.Flush();
  }
}

}  // namespace mlc_server
