#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/json.h"

namespace mlc_server {

// Reads the fields of one JSON object into native types. The first field that is missing, of the
// wrong kind or out of range becomes the error, named as `where.field`; every later read returns a
// harmless value. So: read all fields, then ask status() once.
class FieldReader {
 public:
  // `source` is the file or library that errors name, `where` the path of `object` inside it.
  // `object` must outlive the reader; a value that is no object is the first error.
  FieldReader(const JsonValue& object, std::string source, std::string where);

  int64_t Int(const char* field, int64_t min, int64_t max);
  std::string String(const char* field);
  // Each item within [min, max].
  std::vector<int64_t> Ints(const char* field, int64_t min, int64_t max);
  std::vector<std::string> Strings(const char* field);
  // The items of an array; an empty array when it is missing.
  const JsonValue::Array& Items(const char* field);
  // The member itself; a null value when it is missing.
  const JsonValue& Member(const char* field);
  bool Has(const char* field) const;

  // Records an error about a field found by the caller.
  void Refuse(const std::string& field, const std::string& problem);
  const Status& status() const { return status_; }
  const std::string& where() const { return where_; }

 private:
  const JsonValue* Find(const char* field, JsonValue::Kind kind);
  bool CheckKind(const std::string& field, const JsonValue& value, JsonValue::Kind kind);
  int64_t CheckRange(const std::string& field, const JsonValue& value, int64_t min, int64_t max);

  const JsonValue& object_;
  std::string source_;
  std::string where_;
  Status status_;
};

}  // namespace mlc_server
