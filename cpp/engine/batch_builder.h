#pragma once

#include <cstdint>

#include "model/model_runner.h"
#include "schedule/scheduler.h"

namespace mlc_server {

// Lays the scheduler's batch out as the tables the model runs on. Entries keep their order, as
// do the logit rows: those of an entry's scored tokens, then, if it wants logits, its last token's
// and one for each of its drafts. A batch of which no logits are wanted asks for its last row's,
// because runners compute at least one.
// `input` is overwritten; its memory is reused from step to step.
void BuildModelInput(const Batch& batch, int32_t page_size, ModelInput* input);

}  // namespace mlc_server
