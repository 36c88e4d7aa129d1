// Counterpart: registry.h.
#include "base/registry.h"

#include <tvm/ffi/extra/json.h>

namespace mlf {
namespace {

std::string MetadataOf(const GuardedFunction& function, const Notes& notes) {
  const auto quoted = [](const std::string& text) {
    return std::string(ffi::EscapeStringJSON(ffi::String(text)));
  };
  std::string json = R"({"type_schema":)" + quoted(function.schema());
  for (const auto& [name, text] : notes) {
    json.append(",").append(quoted(name)).append(":").append(quoted(text));
  }
  return json + "}";
}

TVMFFIByteArray Bytes(std::string_view text) { return {text.data(), text.size()}; }

TVMFFIMethodInfo InfoOf(const char* name, const GuardedFunction& function, const char* doc,
                        std::string_view metadata) {
  TVMFFIMethodInfo info{};
  info.name = Bytes(name);
  if (doc != nullptr) info.doc = Bytes(doc);
  info.method = ffi::AnyView(function.function()).CopyToTVMFFIAny();
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

void RegisterFunction(const char* name, const GuardedFunction& function, const char* doc,
                      const Notes& notes) {
  const std::string metadata = MetadataOf(function, notes);
  const TVMFFIMethodInfo info = InfoOf(name, function, doc, metadata);
  TVM_FFI_CHECK_SAFE_CALL(TVMFFIFunctionSetGlobalFromMethodInfo(&info, 0));
}

void RegisterMethod(int32_t type_index, const char* name, bool is_static,
                    const GuardedFunction& function, const char* doc) {
  const std::string metadata = MetadataOf(function, {});
  TVMFFIMethodInfo info = InfoOf(name, function, doc, metadata);
  if (is_static) info.flags = kTVMFFIFieldFlagBitMaskIsStaticMethod;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFITypeRegisterMethod(type_index, &info));
}

}  // namespace mlf
