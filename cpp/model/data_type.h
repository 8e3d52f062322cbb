#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mlc_server {

// Element types of tensors in model folders and libraries.
enum class DataType { kInt8, kUint8, kInt32, kUint32, kFloat16, kBfloat16, kFloat32 };

inline int64_t SizeOf(DataType type) {
  switch (type) {
    case DataType::kInt8:
    case DataType::kUint8:
      return 1;
    case DataType::kFloat16:
    case DataType::kBfloat16:
      return 2;
    default:
      return 4;
  }
}

inline const char* NameOf(DataType type) {
  constexpr const char* kNames[] = {"int8",    "uint8",    "int32",  "uint32",
                                    "float16", "bfloat16", "float32"};
  return kNames[static_cast<int>(type)];
}

// nullopt for a type that no model library here uses.
inline std::optional<DataType> ParseDataType(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DataType::kFloat32); ++i) {
    if (name == NameOf(static_cast<DataType>(i))) {
      return static_cast<DataType>(i);
    }
  }
  return std::nullopt;
}

}  // namespace mlc_server
