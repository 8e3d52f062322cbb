#pragma once

#include <string>

#include "base/result.h"
#include "runtime/thread_pool.h"

namespace mlc_server {

// Loads TVM's runtime library into the process, unless something (Python's tvm) already did, and
// makes model libraries loaded from now on run their parallel regions through ParallelScope.
// Thread-safe; only the first successful call does anything.
Status LoadTvmRuntime(const std::string& path);

// While it lives, parallel regions that this thread enters run on `pool`. Regions entered by a
// thread without a scope go to TVM's own pool, so other users of TVM in the process are left alone.
// A region inside a region runs on the thread that meets it. In-region barriers do not exist here:
// tasks outnumber threads.
class ParallelScope {
 public:
  explicit ParallelScope(ThreadPool* pool);
  ~ParallelScope();
  ParallelScope(const ParallelScope&) = delete;
  ParallelScope& operator=(const ParallelScope&) = delete;

 private:
  ThreadPool* pool_;
  ThreadPool* outer_;
};

}  // namespace mlc_server
