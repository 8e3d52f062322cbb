#pragma once

#include <cstdint>

#include "base/result.h"
#include "model/model_runner.h"

namespace mlc_server {

// Whether the tables of `input` describe a batch that a runner of `info` with `num_pages` KV pages
// can run: sizes agree, ids are in range, positions are consecutive, every row's write slot is the
// one its page table names, and no two rows write to one slot. The engine never fails this; code
// that builds tables by hand (tests, teacher forcing) is told what is wrong.
Status ValidateModelInput(const ModelInput& input, const ModelInfo& info, int32_t num_pages);

}  // namespace mlc_server
