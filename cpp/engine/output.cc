#include "engine/output.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "text/event_writer.h"

namespace mlc_server {
namespace {

// Room for `extra` more elements, growing as push_back does so that many merges stay linear.
template <typename T>
void ReserveMore(std::vector<T>* values, size_t extra) {
  if (values->size() + extra > values->capacity()) {
    values->reserve(std::max(values->size() + extra, 2 * values->capacity()));
  }
}

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  MLC_CHECK(false) << "finish reason " << static_cast<int>(reason);
  return "";
}

void OutputItem::Merge(OutputItem&& later) {
  MLC_CHECK(later.request_id == request_id && later.choice == choice &&
            finish_reason == FinishReason::kNone)
      << "output of request " << later.request_id << " merged into that of " << request_id;
  // Room first: when memory runs out, nothing has been merged yet.
  text.reserve(text.size() + later.text.size());
  ReserveMore(&token_ids, later.token_ids.size());
  ReserveMore(&logprobs, later.logprobs.size());
  ReserveMore(&prompt_logprobs, later.prompt_logprobs.size());
  queue_ns = std::max(queue_ns, later.queue_ns);
  text += later.text;
  token_ids.insert(token_ids.end(), later.token_ids.begin(), later.token_ids.end());
  logprobs.insert(logprobs.end(), std::make_move_iterator(later.logprobs.begin()),
                  std::make_move_iterator(later.logprobs.end()));
  prompt_logprobs.insert(prompt_logprobs.end(),
                         std::make_move_iterator(later.prompt_logprobs.begin()),
                         std::make_move_iterator(later.prompt_logprobs.end()));
  finish_reason = later.finish_reason;
  stop_token_id = later.stop_token_id;
  stop_string = std::move(later.stop_string);
  error = std::move(later.error);
  prompt_tokens = later.prompt_tokens;
  completion_tokens = later.completion_tokens;
}

void OutputItem::WriteEvent() {
  const bool tells_text_alone = !text.empty() && logprobs.empty() && queue_ns < 0 &&
                                prompt_logprobs.empty() && finish_reason == FinishReason::kNone;
  if (events != nullptr && tells_text_alone) {
    event_chunk = WriteEventChunk(*events, choice, text);
    text.clear();
  }
}

}  // namespace mlc_server
