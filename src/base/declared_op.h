// Ops that are declared at run time, by anybody. Counterparts: op.h (ops of this library),
// python/my_llm_ffi/custom.py.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <string>
#include <vector>

#include "base/signature.h"

namespace mlf {

/// A function of tensors, outputs and attributes in the order of a signature: checks what the
/// signature says, then calls `my_llm_ffi.<name>.<device>` with the same arguments. That kernel is
/// looked up in each call, so that it may be registered later, or replaced.
class DeclaredOp {
 public:
  /// An argument: a tensor, or an attribute and its name.
  struct Argument {
    std::string name{};
    std::string kind{};  // tensor, float, int, bool, str or choice
    bool optional = false;
  };

  /// Throws InternalError when `signature` is none.
  DeclaredOp(std::string name, const std::string& signature, std::vector<Argument> arguments);

  // The signature points to the name.
  DeclaredOp(const DeclaredOp&) = delete;
  DeclaredOp& operator=(const DeclaredOp&) = delete;

  void Call(const ffi::AnyView* given, int32_t count) const;

 private:
  ffi::Any Converted(const ffi::AnyView& value, size_t position) const;
  [[noreturn]] void ThrowMismatch(const ffi::AnyView& value, size_t position) const;

  std::string name_;
  std::vector<Argument> arguments_;
  Signature signature_;
};

}  // namespace mlf
