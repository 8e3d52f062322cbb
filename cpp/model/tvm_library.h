#pragma once

// A loaded model library. Included by tvm_*.cc only.

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <string>

#include "base/result.h"
#include "model/weight_loader.h"

namespace mlc_server {

struct TvmLibrary {
  std::string path;
  tvm::ffi::Module executable;       // holds the pack functions
  tvm::ffi::Module virtual_machine;  // holds the state of running forward
  tvm::ffi::Function forward;
  tvm::ffi::Function metadata;  // no arguments; returns metadata_json
  std::string metadata_json;
};

// Loads the shared object at `path`, which runs its code, and starts a virtual machine on it.
// LoadTvmRuntime() comes first. kNotFound: no such file; kIncompatible: no model library.
Result<TvmLibrary> OpenTvmLibrary(const std::string& path);

// Runs pack functions of `library`, which must outlive the result.
PackFn MakePackFn(const TvmLibrary& library);

}  // namespace mlc_server
