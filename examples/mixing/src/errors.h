// Exceptions across both borders: of my_llm_ffi into Python through nanobind, and of Python into
// my_llm_ffi. Without this, nanobind makes a RuntimeError of ours, and tvm-ffi one of nanobind's.
#pragma once
#include <nanobind/nanobind.h>
#include <tvm/ffi/error.h>

#include <exception>
#include <string>

namespace mixing {

/// Errors of tvm-ffi reach Python as the class that their kind names: "ValueError: rms_norm: …".
inline void TranslateErrors() {
  nanobind::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const tvm::ffi::Error& error) {
      const nanobind::object builtins = nanobind::module_::import_("builtins");
      const std::string kind = error.kind();
      nanobind::object type = nanobind::getattr(builtins, kind.c_str(), nanobind::none());
      if (!PyExceptionClass_Check(type.ptr())) type = nanobind::borrow(PyExc_RuntimeError);
      PyErr_SetString(type.ptr(), error.message().c_str());
    }
  });
}

/// Runs what needs Python, for callers that come without the GIL; what Python raises goes on as an
/// error of tvm-ffi with the same kind and message, which every language understands.
template <typename Fn>
auto WithPython(Fn&& fn) {
  const nanobind::gil_scoped_acquire acquire;
  try {
    return fn();
  } catch (const nanobind::python_error& error) {
    const nanobind::str kind(error.type().attr("__name__")), message(error.value());
    throw tvm::ffi::Error(kind.c_str(), message.c_str(), "");
  } catch (const nanobind::cast_error&) {
    throw tvm::ffi::Error("TypeError", "the function returned another type than it should", "");
  }
}

}  // namespace mixing
