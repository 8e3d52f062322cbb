#include "model/field_reader.h"

#include <utility>

namespace mlc_server {
namespace {

const JsonValue::Array& EmptyArray() {
  static const JsonValue::Array empty;
  return empty;
}

const JsonValue& NullValue() {
  static const JsonValue null;
  return null;
}

std::string Indexed(const char* field, size_t index) {
  return std::string(field) + "[" + std::to_string(index) + "]";
}

}  // namespace

FieldReader::FieldReader(const JsonValue& object, std::string source, std::string where)
    : object_(object), source_(std::move(source)), where_(std::move(where)) {
  if (object.kind() != JsonValue::Kind::kObject) {
    status_ = Error{ErrorCode::kIncompatible, source_,
                    source_ + ": " + (where_.empty() ? "the document" : where_) + " is " +
                        KindName(object.kind()) + ", expected an object"};
  }
}

void FieldReader::Refuse(const std::string& field, const std::string& problem) {
  if (!status_) {
    const std::string path = where_.empty() ? field : where_ + "." + field;
    status_ = Error{ErrorCode::kIncompatible, source_, source_ + ": " + path + " " + problem};
  }
}

bool FieldReader::Has(const char* field) const {
  return object_.kind() == JsonValue::Kind::kObject && object_.Find(field) != nullptr;
}

bool FieldReader::CheckKind(const std::string& field, const JsonValue& value,
                            JsonValue::Kind kind) {
  if (value.kind() == kind) {
    return true;
  }
  Refuse(field, std::string("is ") + KindName(value.kind()) + ", expected " + KindName(kind));
  return false;
}

const JsonValue* FieldReader::Find(const char* field, JsonValue::Kind kind) {
  if (object_.kind() != JsonValue::Kind::kObject) {
    return nullptr;
  }
  const JsonValue* value = object_.Find(field);
  if (value == nullptr) {
    Refuse(field, "is missing");
    return nullptr;
  }
  return CheckKind(field, *value, kind) ? value : nullptr;
}

int64_t FieldReader::CheckRange(const std::string& field, const JsonValue& value, int64_t min,
                                int64_t max) {
  if (!CheckKind(field, value, JsonValue::Kind::kInt)) {
    return min;
  }
  const int64_t number = value.AsInt();
  if (number < min || number > max) {
    Refuse(field, "is " + std::to_string(number) + ", expected " + std::to_string(min) + " to " +
                      std::to_string(max));
    return min;
  }
  return number;
}

int64_t FieldReader::Int(const char* field, int64_t min, int64_t max) {
  const JsonValue* value = Find(field, JsonValue::Kind::kInt);
  return value == nullptr ? min : CheckRange(field, *value, min, max);
}

std::string FieldReader::String(const char* field) {
  const JsonValue* value = Find(field, JsonValue::Kind::kString);
  return value == nullptr ? std::string() : value->AsString();
}

std::vector<int64_t> FieldReader::Ints(const char* field, int64_t min, int64_t max) {
  std::vector<int64_t> numbers;
  for (const JsonValue& item : Items(field)) {
    numbers.push_back(CheckRange(Indexed(field, numbers.size()), item, min, max));
  }
  return numbers;
}

std::vector<std::string> FieldReader::Strings(const char* field) {
  std::vector<std::string> strings;
  for (const JsonValue& item : Items(field)) {
    const bool is_string =
        CheckKind(Indexed(field, strings.size()), item, JsonValue::Kind::kString);
    strings.push_back(is_string ? item.AsString() : std::string());
  }
  return strings;
}

const JsonValue::Array& FieldReader::Items(const char* field) {
  const JsonValue* value = Find(field, JsonValue::Kind::kArray);
  return value == nullptr ? EmptyArray() : value->AsArray();
}

const JsonValue& FieldReader::Member(const char* field) {
  const JsonValue* value = Find(field, JsonValue::Kind::kObject);
  return value == nullptr ? NullValue() : *value;
}

}  // namespace mlc_server
