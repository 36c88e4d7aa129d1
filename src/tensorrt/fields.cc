// Counterpart: fields.h.
#include "tensorrt/fields.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "base/quote.h"

namespace mlf::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

constexpr const char* kSchemaField = "schema_version";

const char* NameOf(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kINT8:
      return "INT8";
    case PluginFieldType::kINT32:
      return "INT32";
    case PluginFieldType::kINT64:
      return "INT64";
    case PluginFieldType::kFLOAT32:
      return "FLOAT32";
    case PluginFieldType::kFLOAT64:
      return "FLOAT64";
    case PluginFieldType::kCHAR:
      return "CHAR";
    default:
      return "that no plugin here has";
  }
}

PluginFieldType WrittenType(FieldKind kind) {
  switch (kind) {
    case FieldKind::kBool:
      return PluginFieldType::kINT8;
    case FieldKind::kInt:
      return PluginFieldType::kINT64;
    case FieldKind::kFloat:
      return PluginFieldType::kFLOAT64;
    case FieldKind::kText:
      break;
  }
  return PluginFieldType::kCHAR;
}

const char* ExpectedTypes(FieldKind kind) {
  switch (kind) {
    case FieldKind::kBool:
      return "INT8 or INT32 or INT64";
    case FieldKind::kInt:
      return "INT64 or INT32";
    case FieldKind::kFloat:
      return "FLOAT64 or FLOAT32";
    case FieldKind::kText:
      break;
  }
  return "CHAR";
}

template <typename T>
T Element(const PluginField& field) {
  T value;
  std::memcpy(&value, field.data, sizeof value);
  return value;
}

/// A field that a plugin was given, and whose it is, for messages.
class FieldReader {
 public:
  FieldReader(const Declaration& plugin, const FieldSpec& spec, const PluginField& field)
      : plugin_(plugin), spec_(spec), field_(field) {}

  ffi::Any Value() const {
    if (field_.length < 0 || (field_.length > 0 && field_.data == nullptr))
      TVM_FFI_THROW(ValueError) << Name() << " has no data";
    switch (spec_.kind) {
      case FieldKind::kBool:
        return ffi::Any(Bool());
      case FieldKind::kInt:
        return ffi::Any(Integer(false));
      case FieldKind::kFloat:
        return ffi::Any(Number());
      case FieldKind::kText:
        break;
    }
    return ffi::Any(Text());
  }

 private:
  std::string Name() const { return plugin_.name + ": " + spec_.name; }

  [[noreturn]] void RefuseType() const {
    TVM_FFI_THROW(TypeError) << Name() << " is a field of type " << NameOf(field_.type)
                             << ", expected " << ExpectedTypes(spec_.kind);
    __builtin_unreachable();
  }

  void CheckSingle() const {
    if (field_.length != 1)
      TVM_FFI_THROW(ValueError) << Name() << " is a field of length " << field_.length
                                << ", expected 1";
  }

  int64_t Integer(bool may_be_byte) const {
    const bool known = field_.type == PluginFieldType::kINT64 ||
                       field_.type == PluginFieldType::kINT32 ||
                       (may_be_byte && field_.type == PluginFieldType::kINT8);
    if (!known) RefuseType();
    CheckSingle();
    if (field_.type == PluginFieldType::kINT64) return Element<int64_t>(field_);
    if (field_.type == PluginFieldType::kINT32) return Element<int32_t>(field_);
    return Element<int8_t>(field_);
  }

  bool Bool() const {
    const int64_t value = Integer(true);
    if (value != 0 && value != 1)
      TVM_FFI_THROW(ValueError) << Name() << " is " << value << ", expected 0 or 1 for a bool";
    return value == 1;
  }

  double Number() const {
    if (field_.type != PluginFieldType::kFLOAT64 && field_.type != PluginFieldType::kFLOAT32)
      RefuseType();
    CheckSingle();
    if (field_.type == PluginFieldType::kFLOAT64) return Element<double>(field_);
    return Element<float>(field_);
  }

  ffi::String Text() const {
    if (field_.type != PluginFieldType::kCHAR) RefuseType();
    std::string_view text(static_cast<const char*>(field_.data),
                          static_cast<size_t>(field_.length));
    while (!text.empty() && text.back() == '\0') text.remove_suffix(1);
    if (!IsUtf8(text))
      TVM_FFI_THROW(ValueError) << Name() << " is " << Quoted(text) << ", expected UTF-8";
    if (spec_.has_choices) plugin_.signature.Choice(spec_.name, text);
    return {text.data(), text.size()};
  }

  const Declaration& plugin_;
  const FieldSpec& spec_;
  const PluginField& field_;
};

std::string Names(const Declaration& plugin) {
  std::string names;
  for (const FieldSpec& field : plugin.fields) names += (names.empty() ? "" : ", ") + field.name;
  return names.empty() ? "none" : names;
}

void CheckSchema(const Declaration& plugin, const PluginField& field) {
  const FieldSpec spec{kSchemaField, FieldKind::kInt};
  const auto version = FieldReader(plugin, spec, field).Value().cast<int64_t>();
  if (version != kSchemaVersion)
    TVM_FFI_THROW(ValueError) << plugin.name << ": the fields are of schema version " << version
                              << ", this plugin reads " << kSchemaVersion;
}

}  // namespace

std::vector<ffi::Any> ReadFields(const Declaration& plugin, const PluginFieldCollection* given) {
  const std::vector<FieldSpec>& specs = plugin.fields;
  std::vector<std::optional<ffi::Any>> found(specs.size());
  bool schema_seen = false;
  const int32_t count = given == nullptr ? 0 : given->nbFields;
  if (count > 0 && given->fields == nullptr)
    TVM_FFI_THROW(ValueError) << plugin.name << ": " << count
                              << " fields are given, and none is there";
  for (int32_t i = 0; i < count; ++i) {
    const PluginField& field = given->fields[i];
    const std::string_view name = field.name == nullptr ? "" : field.name;
    const auto spec = std::find_if(specs.begin(), specs.end(),
                                   [name](const FieldSpec& s) { return s.name == name; });
    const bool is_schema = name == kSchemaField;
    if (!is_schema && spec == specs.end())
      TVM_FFI_THROW(ValueError) << plugin.name << ": there is no field " << Quoted(name)
                                << ", expected " << Names(plugin);
    if (is_schema ? schema_seen : found[spec - specs.begin()].has_value())
      TVM_FFI_THROW(ValueError) << plugin.name << ": " << name << " is there twice";
    if (is_schema) {
      CheckSchema(plugin, field);
      schema_seen = true;
    } else {
      found[spec - specs.begin()] = FieldReader(plugin, *spec, field).Value();
    }
  }
  std::vector<ffi::Any> values;
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::optional<ffi::Any>& value = found[i] ? found[i] : specs[i].fallback;
    if (!value)
      TVM_FFI_THROW(ValueError) << plugin.name << ": the field " << specs[i].name << " is missing";
    values.push_back(*value);
  }
  return values;
}

WrittenFields::WrittenFields(const Declaration& plugin) {
  Add(kSchemaField, PluginFieldType::kINT32, nullptr, 0, 1);
  for (const FieldSpec& field : plugin.fields) {
    Add(field.name.c_str(), WrittenType(field.kind), nullptr, 0,
        field.kind == FieldKind::kText ? 0 : 1);
  }
  Finish();
}

WrittenFields::WrittenFields(const Declaration& plugin, const std::vector<ffi::Any>& values) {
  const auto schema = static_cast<int32_t>(kSchemaVersion);
  Add(kSchemaField, PluginFieldType::kINT32, &schema, sizeof schema, 1);
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == nullptr) continue;
    const FieldSpec& field = plugin.fields[i];
    const char* name = field.name.c_str();
    const PluginFieldType type = WrittenType(field.kind);
    if (field.kind == FieldKind::kBool) {
      const auto value = static_cast<int8_t>(values[i].cast<bool>());
      Add(name, type, &value, sizeof value, 1);
    } else if (field.kind == FieldKind::kInt) {
      const auto value = values[i].cast<int64_t>();
      Add(name, type, &value, sizeof value, 1);
    } else if (field.kind == FieldKind::kFloat) {
      const auto value = values[i].cast<double>();
      Add(name, type, &value, sizeof value, 1);
    } else {
      // An empty text is one NUL, because TensorRT keeps no field of length 0.
      const auto text = values[i].cast<ffi::String>();
      const size_t bytes = std::max<size_t>(text.size(), 1);
      Add(name, type, text.c_str(), bytes, static_cast<int32_t>(bytes));
    }
  }
  Finish();
}

void WrittenFields::Add(const char* name, PluginFieldType type, const void* data, size_t bytes,
                        int32_t length) {
  const char* kept = nullptr;
  if (data != nullptr) {
    auto& memory = data_.emplace_back(std::make_unique<char[]>(bytes));
    std::memcpy(memory.get(), data, bytes);
    kept = memory.get();
  }
  fields_.emplace_back(name, kept, type, length);
}

void WrittenFields::Finish() {
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

}  // namespace mlf::tensorrt
