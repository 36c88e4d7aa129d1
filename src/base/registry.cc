// Counterpart: registry.h.
#include "base/registry.h"

#include <tvm/ffi/extra/json.h>

namespace mlf {
namespace {

std::string MetadataOf(const std::string& schema, Notes notes) {
  if (!schema.empty()) notes.insert(notes.begin(), {"type_schema", schema});
  std::string json = "{";
  for (const auto& [name, text] : notes) {
    if (json.size() > 1) json.append(",");
    json.append("\"").append(name).append("\":");
    json.append(ffi::EscapeStringJSON(ffi::String(text)));
  }
  return json + "}";
}

TVMFFIByteArray Bytes(std::string_view text) { return {text.data(), text.size()}; }

TVMFFIMethodInfo InfoOf(std::string_view name, const ffi::Function& function, const char* doc,
                        std::string_view metadata) {
  TVMFFIMethodInfo info{};
  info.name = Bytes(name);
  if (doc != nullptr) info.doc = Bytes(doc);
  info.method = ffi::AnyView(function).CopyToTVMFFIAny();
  info.metadata = Bytes(metadata);
  return info;
}

}  // namespace

ffi::Function ThroughC(const ffi::Function& function) {
  if (function == nullptr || function.get()->cpp_call == nullptr) return function;
  using Unsafe = ffi::detail::ObjectUnsafe;
  const TVMFFISafeCallType call = function.get()->safe_call;
  TVMFFIObject* kept = Unsafe::MoveObjectRefToTVMFFIObjectPtr(ffi::Function(function));
  return ffi::Function::FromExternC(kept, call, Unsafe::DecRefObjectHandle);
}

void RegisterFunction(const std::string& name, const ffi::Function& function,
                      const std::string& schema, const char* doc, const Notes& notes) {
  const std::string metadata = MetadataOf(schema, notes);
  const TVMFFIMethodInfo info = InfoOf(name, function, doc, metadata);
  TVM_FFI_CHECK_SAFE_CALL(TVMFFIFunctionSetGlobalFromMethodInfo(&info, 0));
}

void RegisterMethod(int32_t type_index, const char* name, bool is_static,
                    const GuardedFunction& function, const char* doc) {
  const std::string metadata = MetadataOf(function.schema(), {});
  TVMFFIMethodInfo info = InfoOf(name, function.function(), doc, metadata);
  if (is_static) info.flags = kTVMFFIFieldFlagBitMaskIsStaticMethod;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFITypeRegisterMethod(type_index, &info));
}

}  // namespace mlf
