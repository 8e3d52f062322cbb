#pragma once

#include "base/result.h"
#include "core/engine_config.h"
#include "model/model_runner.h"

namespace mlc_server {

// Whether a model can be run under these limits; kIncompatible names both values if not.
Status CheckAgainstModel(const EngineConfig& config, const ModelInfo& info);

}  // namespace mlc_server
