// Registered functions and methods: what every call of ours, and every call from here, goes
// through. Counterpart: registry.cc.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/interrupt.h"
#include "base/memory_guard.h"

namespace mlf {

namespace ffi = tvm::ffi;

/// The same function without its entry of C++, so that every call takes the C ABI: caller and
/// callee may be built by different compilers, whose exceptions do not know each other. Null and
/// functions without such an entry come back as they are.
ffi::Function ThroughC(const ffi::Function& function);

/// What gives a guarded callable the same signature, from which tvm-ffi derives types.
template <typename T>
struct GuardOf : GuardOf<decltype(&T::operator())> {};

template <typename R, typename... A>
struct GuardOf<R (*)(A...)> {
  template <typename Fn>
  static auto Wrap(std::string call, Fn fn) {
    return [call = std::move(call), fn = std::move(fn)](A... args) -> R {
      const ExitGate gate;
      return WithMemoryErrors(call, [&]() -> R { return fn(Given(std::forward<A>(args))...); });
    };
  }

 private:
  template <typename T>
  static T&& Given(T&& argument) {
    return std::forward<T>(argument);
  }
  static ffi::Function Given(const ffi::Function& callback) { return ThroughC(callback); }
  static ffi::Optional<ffi::Function> Given(const ffi::Optional<ffi::Function>& callback) {
    if (!callback.has_value()) return callback;
    return ThroughC(*callback);
  }
};

template <typename C, typename R, typename... A>
struct GuardOf<R (C::*)(A...) const> : GuardOf<R (*)(A...)> {};

/// `fn`, with failures to allocate as MemoryError and exits of Python met, as a function of the
/// registry and the type that it has there.
class GuardedFunction {
 public:
  template <typename Fn>
  GuardedFunction(const std::string& name, Fn fn) {
    auto guarded = GuardOf<Fn>::Wrap(name, std::move(fn));
    schema_ = ffi::detail::FunctionInfo<decltype(guarded)>::TypeSchema();
    function_ = ThroughC(ffi::Function::FromTyped(std::move(guarded), name));
  }
  /// One that takes any number of arguments of any types: fn(arguments, their number, result).
  template <typename Fn>
  static GuardedFunction Packed(const std::string& name, Fn fn) {
    return {ThroughC(ffi::Function::FromPacked(
                [name, fn = std::move(fn)](const ffi::AnyView* args, int32_t n, ffi::Any* result) {
                  const ExitGate gate;
                  WithMemoryErrors(name, [&] { fn(args, n, result); });
                })),
            R"({"type":"ffi.Function"})"};
  }

  const ffi::Function& function() const { return function_; }
  const std::string& schema() const { return schema_; }

 private:
  GuardedFunction(ffi::Function function, std::string schema)
      : function_(std::move(function)), schema_(std::move(schema)) {}

  ffi::Function function_{};
  std::string schema_{};
};

/// Names and texts that stand in a function's metadata beside its type.
using Notes = std::vector<std::pair<const char*, std::string>>;

/// Without a type where `schema` is empty. RuntimeError of tvm-ffi when the name is taken.
void RegisterFunction(const std::string& name, const ffi::Function& function,
                      const std::string& schema, const char* doc, const Notes& notes);
void RegisterMethod(int32_t type_index, const char* name, bool is_static,
                    const GuardedFunction& function, const char* doc);

/// tvm-ffi's GlobalDef, with every function guarded. Generated clients read the notes.
class FunctionDef {
 public:
  template <typename Fn>
  FunctionDef& def(const char* name, Fn fn, const char* doc, const Notes& notes = {}) {
    const GuardedFunction guarded(name, std::move(fn));
    RegisterFunction(name, guarded.function(), guarded.schema(), doc, notes);
    return *this;
  }
  template <typename Fn>
  FunctionDef& def(const char* name, Fn fn, const Notes& notes) {
    return def(name, std::move(fn), nullptr, notes);
  }
};

/// tvm-ffi's ObjectDef likewise, for methods.
template <typename Object>
class MethodDef {
 public:
  template <typename Fn>
  MethodDef& def(const char* name, Fn fn, const char* doc = nullptr) {
    return Register(name, false, GuardedFunction(FullName(name), std::move(fn)), doc);
  }
  template <typename Fn>
  MethodDef& def_static(const char* name, Fn fn, const char* doc = nullptr) {
    return Register(name, true, GuardedFunction(FullName(name), std::move(fn)), doc);
  }
  /// fn(self and arguments, their number, result).
  template <typename Fn>
  MethodDef& def_packed(const char* name, Fn fn, const char* doc) {
    return Register(name, false, GuardedFunction::Packed(FullName(name), std::move(fn)), doc);
  }

 private:
  static std::string FullName(const char* name) {
    return std::string(Object::_type_key) + "." + name;
  }
  MethodDef& Register(const char* name, bool is_static, const GuardedFunction& function,
                      const char* doc) {
    RegisterMethod(Object::_GetOrAllocRuntimeTypeIndex(), name, is_static, function, doc);
    return *this;
  }
  ffi::reflection::ObjectDef<Object> def_;  // the type
};

}  // namespace mlf
