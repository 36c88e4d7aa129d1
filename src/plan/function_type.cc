// What a plan may call, and with which arguments. Counterpart: function_type.h.
#include "plan/function_type.h"

#include <string_view>

#include "base/quote.h"

namespace mlf {
namespace {

constexpr std::string_view kPrefix = "my_llm_ffi.";

using JsonObject = ffi::Map<ffi::String, ffi::Any>;
using JsonArray = ffi::Array<ffi::Any>;

JsonObject ParseJson(const ffi::String& text) {
  static const ffi::Function parse = ffi::Function::GetGlobalRequired("ffi.json.Parse");
  return parse(text).cast<JsonObject>();
}

JsonObject MetadataOf(const std::string& name) {
  static const ffi::Function metadata =
      ffi::Function::GetGlobalRequired("ffi.GetGlobalFuncMetadata");
  const auto text = metadata(ffi::String(name)).cast<ffi::Optional<ffi::String>>();
  if (!text.has_value() || (*text).empty()) return {};
  return ParseJson(*text);
}

std::optional<ffi::Any> Find(const JsonObject& object, const char* key) {
  const auto found = object.find(ffi::String(key));
  if (found == object.end()) return std::nullopt;
  return (*found).second;
}

ParameterType::Kind KindOf(const std::string& type) {
  using Kind = ParameterType::Kind;
  if (type == "DLTensor*" || type == "ffi.Tensor") return Kind::kTensor;
  if (type == "int") return Kind::kInt;
  if (type == "float") return Kind::kFloat;
  if (type == "bool") return Kind::kBool;
  if (type == "ffi.String") return Kind::kString;
  return type == "Any" || type == "ffi.Any" ? Kind::kAny : Kind::kOther;
}

ParameterType ReadParameter(const JsonObject& node) {
  const std::string type = Find(node, "type").value_or(ffi::String()).cast<ffi::String>();
  if (type != "Optional") return {KindOf(type), false, type};
  ParameterType inner =
      ReadParameter((*Find(node, "args")).cast<JsonArray>()[0].cast<JsonObject>());
  inner.optional = true;
  inner.name += " or None";
  return inner;
}

std::optional<std::vector<ParameterType>> ReadParameters(const JsonObject& metadata) {
  const auto schema = Find(metadata, "type_schema");
  if (!schema) return std::nullopt;
  const auto named = Find(ParseJson(schema->cast<ffi::String>()), "named_args");
  if (!named) return std::nullopt;
  std::vector<ParameterType> parameters;
  for (const ffi::Any& node : (*Find(named->cast<JsonObject>(), "params")).cast<JsonArray>()) {
    parameters.push_back(ReadParameter(node.cast<JsonObject>()));
  }
  return parameters;
}

}  // namespace

PlanFunction FindPlanFunction(const std::string& name, const Permission& permission) {
  const auto function = ffi::Function::GetGlobal(name);
  const JsonObject metadata = function ? MetadataOf(name) : JsonObject();
  const auto signature = Find(metadata, "op");
  const bool is_op = name.starts_with(kPrefix) && signature.has_value();
  if (!is_op && !permission.all && !permission.names.contains(name)) {
    TVM_FFI_THROW(ValueError) << "calls " << Quoted(name)
                              << ", which is no op of this library and was not allowed";
  }
  if (!function)
    TVM_FFI_THROW(ValueError) << "calls " << Quoted(name) << ", which is not registered";
  PlanFunction found{.function = *function, .is_op = is_op};
  found.parameters = ReadParameters(metadata);
  if (is_op) {
    const std::string text = signature->cast<ffi::String>();
    found.tensors = Signature(name.c_str(), text).tensors();
  }
  return found;
}

}  // namespace mlf
