#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/request.h"
#include "sampling/sampler.h"

namespace mlc_server {

enum class FinishReason {
  kNone,       // more is to come
  kStop,       // EOS, a stop id or a stop string
  kLength,     // max_tokens reached or the context is full
  kCancelled,  // the caller cancelled it
  kError,      // the request failed; `error` says why
};

// The name the bindings report; empty for kNone.
const char* FinishReasonName(FinishReason reason);

// News of one choice of one request: all that happened to it since the reader last looked.
// `text` may lag behind `token_ids`, because bytes that may yet become part of a character or of a
// stop string are held back; by the item with a finish reason everything has been handed out.
struct OutputItem {
  RequestId request_id = 0;
  int32_t choice = 0;
  // How long the request waited for the first step that ran some of it. Reported once, by the
  // choice that ran, as soon as it does; -1 otherwise.
  int64_t queue_ns = -1;
  // Of the prompt's tokens from the second on, in order, as they are computed. Reported once, by
  // choice 0, before or with its first token; none unless asked for.
  std::vector<TokenLogprobs> prompt_logprobs;
  std::string text;                     // valid UTF-8
  std::vector<int32_t> token_ids;       // every token drawn, the one that ended it included
  std::vector<TokenLogprobs> logprobs;  // one per token_ids entry if asked for, else empty
  FinishReason finish_reason = FinishReason::kNone;
  int32_t stop_token_id = -1;  // the stop id that ended it (not EOS); -1 is none
  std::string stop_string;     // the stop string that ended it; empty is none
  std::string error;           // for the client; no internals
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;              // drawn so far, the one that ended it included
  std::shared_ptr<const EventFormat> events;  // the request's
  std::string event_chunk;                    // see WriteEvent()

  // Takes over what `later` reports of the same choice.
  void Merge(OutputItem&& later);
  // If the request has a format for events, and this tells of text and tokens and of nothing else:
  // makes the text an `event_chunk` (see text/event_writer.h). For the reader, after all merging.
  void WriteEvent();
};

}  // namespace mlc_server
