// Registered functions: failures to allocate arrive as MemoryError, and exits of Python are met.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <new>
#include <stdexcept>
#include <string>
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
decltype(auto) WithMemoryErrors(const std::string& call, Fn&& fn) {
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

 private:
  template <typename Fn>
  static auto Guarded(const char* name, Fn fn) {
    return MemoryGuarded(std::string(Object::_type_key) + "." + name, std::move(fn));
  }
  tvm::ffi::reflection::ObjectDef<Object> def_;
};

}  // namespace mlf
