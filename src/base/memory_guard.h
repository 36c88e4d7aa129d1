// Registered functions: failures to allocate arrive as MemoryError, and exits of Python are met.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "base/interrupt.h"

namespace mlf {

[[noreturn, gnu::cold, gnu::noinline]] inline void ThrowNoMemory(const std::string& call,
                                                                 const char* why) {
  TVM_FFI_THROW(MemoryError) << call << ": " << why;
}

/// Calls fn(); a std::bad_alloc or std::length_error out of it becomes a MemoryError that names
/// `call`. tvm-ffi would report both as an InternalError, a bug of this library.
template <typename Fn>
[[gnu::always_inline]] inline decltype(auto) WithMemoryErrors(const std::string& call, Fn&& fn) {
  try {
    return std::forward<Fn>(fn)();
  } catch (const std::bad_alloc&) {
    ThrowNoMemory(call, "the system has no memory left for what this call needs");
  } catch (const std::length_error&) {
    ThrowNoMemory(call, "asks for more memory than there can be");
  }
}

/// What gives a guarded callable the same signature, from which tvm-ffi derives types.
template <typename T>
struct MemoryGuardOf : MemoryGuardOf<decltype(&T::operator())> {};

template <typename R, typename... A>
struct MemoryGuardOf<R (*)(A...)> {
  template <typename Fn>
  static auto Wrap(std::string call, Fn fn) {
    return [call = std::move(call), fn = std::move(fn)](A... args) -> R {
      const ExitGate gate;
      return WithMemoryErrors(call, [&]() -> R { return fn(std::forward<A>(args)...); });
    };
  }
};

template <typename C, typename R, typename... A>
struct MemoryGuardOf<R (C::*)(A...) const> : MemoryGuardOf<R (*)(A...)> {};

template <typename Fn>
auto MemoryGuarded(std::string call, Fn fn) {
  return MemoryGuardOf<Fn>::Wrap(std::move(call), std::move(fn));
}

/// tvm-ffi's GlobalDef and ObjectDef with every function guarded.
class FunctionDef {
 public:
  template <typename Fn, typename... Extra>
  FunctionDef& def(const char* name, Fn fn, Extra&&... extra) {
    def_.def(name, MemoryGuarded(name, std::move(fn)), std::forward<Extra>(extra)...);
    return *this;
  }

 private:
  tvm::ffi::reflection::GlobalDef def_;
};

template <typename Object>
class MethodDef {
 public:
  template <typename Fn, typename... Extra>
  MethodDef& def(const char* name, Fn fn, Extra&&... extra) {
    def_.def(name, Guarded(name, std::move(fn)), std::forward<Extra>(extra)...);
    return *this;
  }
  template <typename Fn, typename... Extra>
  MethodDef& def_static(const char* name, Fn fn, Extra&&... extra) {
    def_.def_static(name, Guarded(name, std::move(fn)), std::forward<Extra>(extra)...);
    return *this;
  }
  /// A method that takes any number of arguments of any types: fn(self and arguments, their number,
  /// result).
  template <typename Fn>
  MethodDef& def_packed(const char* name, Fn fn, const char* doc) {
    const std::string full = std::string(Object::_type_key) + "." + name;
    const auto function = tvm::ffi::Function::FromPacked(
        [full, fn](const tvm::ffi::AnyView* args, int32_t count, tvm::ffi::Any* result) {
          const ExitGate gate;
          WithMemoryErrors(full, [&] { fn(args, count, result); });
        });
    const std::string metadata = R"({"type_schema":"{\"type\":\"ffi.Function\"}"})";
    TVMFFIMethodInfo info{};
    info.name = {name, std::string_view(name).size()};
    info.doc = {doc, std::string_view(doc).size()};
    info.method = tvm::ffi::AnyView(function).CopyToTVMFFIAny();
    info.metadata = {metadata.data(), metadata.size()};
    TVM_FFI_CHECK_SAFE_CALL(TVMFFITypeRegisterMethod(Object::_GetOrAllocRuntimeTypeIndex(), &info));
    return *this;
  }

 private:
  template <typename Fn>
  static auto Guarded(const char* name, Fn fn) {
    return MemoryGuarded(std::string(Object::_type_key) + "." + name, std::move(fn));
  }
  tvm::ffi::reflection::ObjectDef<Object> def_;
};

}  // namespace mlf
