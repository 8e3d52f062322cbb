#include "engine/stats.h"

namespace mlc_server {

void StatsBoard::Publish(const EngineStats& stats) {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_ = stats;
}

EngineStats StatsBoard::Read() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

}  // namespace mlc_server
