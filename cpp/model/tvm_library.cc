#include "model/tvm_library.h"

#include <sys/stat.h>
#include <tvm/ffi/any.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/string.h>

#include <exception>
#include <utility>
#include <vector>

#include "model/tvm_tensors.h"

namespace mlc_server {
namespace {

namespace ffi = tvm::ffi;

// TVM's AllocatorType: keeps what a step frees for the next one. It keeps every size it ever
// served, which is bounded because libraries allocate for their stated limits, whatever the batch;
// only what a step touches takes physical memory.
constexpr int32_t kPooledAllocator = 2;

Error Unusable(const std::string& path, const std::string& why) {
  return Error{ErrorCode::kIncompatible, path, path + " is not a usable model library: " + why};
}

// Throws ffi::Error when there is none.
ffi::Function Find(const ffi::Module& module, const std::string& name) {
  ffi::Optional<ffi::Function> function = module->GetFunction(name, /*query_imports=*/true);
  if (!function.has_value()) {
    TVM_FFI_THROW(ValueError) << "it has no function \"" << name << "\"";
  }
  return *std::move(function);
}

}  // namespace

Result<TvmLibrary> OpenTvmLibrary(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return Error{ErrorCode::kNotFound, path, "no model library at " + path};
  }
  try {
    const ffi::Module executable = ffi::Module::LoadFromFile(path);
    const auto machine = Find(executable, "vm_load_executable")().cast<ffi::Module>();
    Find(machine, "vm_initialization")(static_cast<int32_t>(kDLCPU), 0, kPooledAllocator);
    const ffi::Function metadata = Find(machine, "metadata");
    std::string metadata_json(metadata().cast<ffi::String>());
    return TvmLibrary{
        path, executable, machine, Find(machine, "forward"), metadata, std::move(metadata_json)};
  } catch (const ffi::Error& error) {
    return Unusable(path, error.message());
  } catch (const std::exception& error) {  // what a damaged file makes of the loader
    return Unusable(path, error.what());
  }
}

PackFn MakePackFn(const TvmLibrary& library) {
  return [&library](const std::string& name, const std::vector<SourceTensor>& sources,
                    uint8_t* destination, int64_t nbytes) -> Status {
    std::vector<ffi::Tensor> tensors;
    for (const SourceTensor& source : sources) {
      tensors.push_back(ViewTensor(source.data, *source.shape, source.dtype));
    }
    tensors.push_back(ViewTensor(destination, {nbytes}, DataType::kUint8));
    const std::vector<ffi::AnyView> arguments(tensors.begin(), tensors.end());
    ffi::Any result;
    try {
      Find(library.executable, name)
          .CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
    } catch (const ffi::Error& error) {
      return Unusable(library.path, name + ": " + error.message());
    }
    return std::nullopt;
  };
}

}  // namespace mlc_server
