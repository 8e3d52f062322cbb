#pragma once

// tvm-ffi tensors over the core's own memory. Included by tvm_*.cc only.

#include <tvm/ffi/container/tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "model/data_type.h"

namespace mlc_server {

DLDataType ToDlpack(DataType dtype);

// A C-contiguous CPU tensor over `data`, which must outlive it.
tvm::ffi::Tensor ViewTensor(const void* data, const std::vector<int64_t>& shape, DataType dtype);

// An int32 tensor of a variable number of rows over memory of its own. Reused from step to step:
// allocates only when it has to hold more rows than ever before.
class StepTable {
 public:
  // `columns` 0 makes a vector, else a matrix of that many columns.
  explicit StepTable(int64_t columns, int64_t capacity_rows);

  // Sets the number of rows and returns the memory, rows * max(columns, 1) values, to be filled.
  int32_t* Resize(int64_t rows);
  void Assign(const std::vector<int32_t>& values);
  const tvm::ffi::Tensor& tensor() const { return tensor_; }

 private:
  struct Free {
    void operator()(int32_t* memory) const;
  };
  void Reserve(int64_t rows);

  int64_t columns_;
  int64_t capacity_rows_ = 0;
  std::unique_ptr<int32_t, Free> memory_;
  tvm::ffi::Tensor tensor_;
};

}  // namespace mlc_server
