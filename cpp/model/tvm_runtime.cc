#include "model/tvm_runtime.h"

#include <dlfcn.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <mutex>

namespace mlc_server {
namespace {

namespace ffi = tvm::ffi;

// Tasks handed out for each thread of the pool. The generated code cuts a loop into as many
// stretches (of kernels, at most STRETCHES of frame.py); more of them balance better, each costs a
// call and, when it is taken from another thread, a cache line's way there and back.
constexpr int32_t kTasksPerThread = 8;

constexpr char kLaunchSymbol[] = "__TVMBackendParallelLaunch";

// TVM's C ABI of a parallel region (tvm/runtime/c_backend_api.h, which the tvm-ffi headers lack).
struct ParallelGroupEnv {
  void* sync_handle;
  int32_t num_task;
};
using ParallelLambda = int (*)(int task_id, ParallelGroupEnv* env, void* data);
using LaunchFn = int (*)(ParallelLambda lambda, void* data, int num_task);

LaunchFn tvm_launch = nullptr;  // TVM's own; written once, before ours is registered
thread_local ThreadPool* current_pool = nullptr;
thread_local bool inside_region = false;

// One region on its way through the pool. TVM keeps a raised error in the thread that raised it:
// the first one is carried here to the thread that called.
struct Region {
  ParallelLambda lambda;
  void* data;
  std::mutex mutex;
  TVMFFIObjectHandle error = nullptr;

  void KeepError() {
    TVMFFIObjectHandle raised = nullptr;
    TVMFFIErrorMoveFromRaised(&raised);
    const std::lock_guard<std::mutex> lock(mutex);
    if (error == nullptr) {
      error = raised;
    } else if (raised != nullptr) {
      TVMFFIObjectDecRef(raised);
    }
  }
};

int RunTask(int32_t task_id, int32_t num_tasks, void* data) {
  auto* region = static_cast<Region*>(data);
  ParallelGroupEnv env{nullptr, num_tasks};
  inside_region = true;
  const int result = region->lambda(task_id, &env, region->data);
  inside_region = false;
  if (result != 0) {
    region->KeepError();
  }
  return result;
}

// Stands in for TVMBackendParallelLaunch in generated code. `num_task` 0 leaves the number to us.
int LaunchOnPool(ParallelLambda lambda, void* data, int num_task) {
  if (inside_region) {
    ParallelGroupEnv env{nullptr, 1};
    return lambda(0, &env, data);
  }
  ThreadPool* pool = current_pool;
  if (pool == nullptr) {
    return tvm_launch(lambda, data, num_task);
  }
  if (num_task == 0) {
    const int32_t num_threads = pool->num_threads();
    num_task = num_threads == 1 ? 1 : num_threads * kTasksPerThread;
  }
  Region region;
  region.lambda = lambda;
  region.data = data;
  const int result = pool->Run(RunTask, &region, num_task);
  if (region.error != nullptr) {
    TVMFFIErrorSetRaised(region.error);
    TVMFFIObjectDecRef(region.error);
  } else if (result != 0) {
    TVMFFIErrorSetRaisedFromCStr("RuntimeError", "a parallel region failed without saying why");
  }
  return result;
}

LaunchFn FindTvmLaunch() {
  void* found = nullptr;
  ffi::Module::VisitContextSymbols([&found](const ffi::String& name, void* symbol) {
    if (name == kLaunchSymbol && symbol != reinterpret_cast<void*>(LaunchOnPool)) {
      found = symbol;
    }
  });
  return reinterpret_cast<LaunchFn>(found);
}

bool RuntimeIsPresent() {
  return ffi::Function::GetGlobal("ffi.Module.load_from_bytes.relax.VMExecutable").has_value();
}

}  // namespace

Status LoadTvmRuntime(const std::string& path) {
  static std::mutex mutex;
  static bool loaded = false;
  const std::lock_guard<std::mutex> lock(mutex);
  if (loaded) {
    return std::nullopt;
  }
  // RTLD_GLOBAL: the runtime's type table is shared with whoever loads it later.
  if (!RuntimeIsPresent() && dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return Error{ErrorCode::kNotFound, "tvm_library_path",
                 std::string("cannot load TVM's runtime: ") + dlerror()};
  }
  if (!RuntimeIsPresent()) {
    return Error{ErrorCode::kIncompatible, "tvm_library_path",
                 path + " is not a TVM runtime with the Relax virtual machine"};
  }
  tvm_launch = FindTvmLaunch();
  if (tvm_launch == nullptr) {
    return Error{ErrorCode::kIncompatible, "tvm_library_path",
                 path + " registers no " + kLaunchSymbol};
  }
  // Of symbols of one name the last registered is given to a library that is loaded.
  if (TVMFFIEnvModRegisterContextSymbol(kLaunchSymbol, reinterpret_cast<void*>(LaunchOnPool)) !=
      0) {
    return Error{ErrorCode::kIncompatible, "tvm_library_path",
                 "tvm-ffi refused to register the thread pool"};
  }
  loaded = true;
  return std::nullopt;
}

ParallelScope::ParallelScope(ThreadPool* pool) : pool_(pool), outer_(current_pool) {
  current_pool = pool_;
  pool_->BeginStep();
}

ParallelScope::~ParallelScope() {
  pool_->EndStep();
  current_pool = outer_;
}

}  // namespace mlc_server
