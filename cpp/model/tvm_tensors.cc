#include "model/tvm_tensors.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "base/check.h"

namespace mlc_server {
namespace {

namespace ffi = tvm::ffi;

// Generated code loads whole vectors and asserts this alignment.
constexpr size_t kTensorAlignment = 64;

struct BorrowedMemory {
  void* data;
  void AllocData(DLTensor* tensor) { tensor->data = data; }
  void FreeData(DLTensor*) {}
};

}  // namespace

DLDataType ToDlpack(DataType dtype) {
  const auto bits = static_cast<uint8_t>(8 * SizeOf(dtype));
  switch (dtype) {
    case DataType::kInt8:
    case DataType::kInt32:
      return DLDataType{kDLInt, bits, 1};
    case DataType::kUint8:
    case DataType::kUint32:
      return DLDataType{kDLUInt, bits, 1};
    case DataType::kBfloat16:
      return DLDataType{kDLBfloat, bits, 1};
    default:
      return DLDataType{kDLFloat, bits, 1};
  }
}

ffi::Tensor ViewTensor(const void* data, const std::vector<int64_t>& shape, DataType dtype) {
  return ffi::Tensor::FromNDAlloc(BorrowedMemory{const_cast<void*>(data)},
                                  ffi::ShapeView(shape.data(), shape.size()), ToDlpack(dtype),
                                  DLDevice{kDLCPU, 0});
}

void StepTable::Free::operator()(int32_t* memory) const { std::free(memory); }

StepTable::StepTable(int64_t columns, int64_t capacity_rows) : columns_(columns) {
  Reserve(std::max<int64_t>(1, capacity_rows));
}

void StepTable::Reserve(int64_t rows) {
  const size_t bytes = static_cast<size_t>(rows * std::max<int64_t>(1, columns_)) * sizeof(int32_t);
  const size_t rounded = (bytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  std::unique_ptr<int32_t, Free> memory(
      static_cast<int32_t*>(std::aligned_alloc(kTensorAlignment, rounded)));
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  std::vector<int64_t> shape = {rows};
  if (columns_ > 0) {
    shape.push_back(columns_);
  }
  tensor_ = ViewTensor(memory.get(), shape, DataType::kInt32);
  memory_ = std::move(memory);
  capacity_rows_ = rows;
}

int32_t* StepTable::Resize(int64_t rows) {
  MLC_CHECK(rows >= 1) << "a step table of " << rows << " rows";
  if (rows > capacity_rows_) {
    Reserve(std::max(rows, 2 * capacity_rows_));
  }
  // Nothing holds the tensor between steps, and the strides do not depend on the first dimension.
  tensor_.GetDLTensorPtr()->shape[0] = rows;
  return memory_.get();
}

void StepTable::Assign(const std::vector<int32_t>& values) {
  MLC_CHECK(columns_ == 0);
  std::copy(values.begin(), values.end(), Resize(static_cast<int64_t>(values.size())));
}

}  // namespace mlc_server
