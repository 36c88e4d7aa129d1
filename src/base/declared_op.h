// Ops that are declared at run time, by anybody. Counterparts: op.h (ops of this library),
// op_library.cc (libraries of such ops), python/my_llm_ffi/custom.py, include/my_llm_ffi/declare.h.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/signature.h"
#include "base/signature_parser.h"

namespace mlf {

/// A function of tensors, outputs and attributes in the order of a signature: checks what the
/// signature says, then calls `my_llm_ffi.<name>.<device>` with the same arguments. That kernel is
/// looked up in each call, so that it may be registered later, or replaced.
class DeclaredOp {
 public:
  /// Throws ValueError when `signature` is none, or leaves the size of an output to the kernel.
  DeclaredOp(std::string name, std::string_view signature);

  // The signature points to the name.
  DeclaredOp(const DeclaredOp&) = delete;
  DeclaredOp& operator=(const DeclaredOp&) = delete;

  void Call(const ffi::AnyView* given, int32_t count) const;

  /// Types of the arguments in the registry's notation, as a kernel must have them.
  std::string TypeSchema() const;

 private:
  ffi::Any Converted(const ffi::AnyView& value, size_t position) const;
  [[noreturn]] void ThrowMismatch(const ffi::AnyView& value, size_t position) const;

  std::string name_;
  Signature signature_;
  std::vector<ArgumentSpec> arguments_{};
};

/// Declares an op: registers `my_llm_ffi.<name>`, with the metadata that other ops have (op.h).
void DeclareOp(const ffi::String& name, const ffi::String& signature, const ffi::String& doc);

/// Fills the slot `my_llm_ffi.<name>.<device>` of an op. `type_schema` is that of the kernel, or
/// empty for one that takes anything. Throws KeyError when there is no such op, ValueError when the
/// slot is taken, TypeError when the kernel has other arguments than the op.
void RegisterKernel(const ffi::String& name, const ffi::String& device, const ffi::Function& kernel,
                    const ffi::String& type_schema);

/// The ops that this thread declares while one of these lives.
class DeclaredNames {
 public:
  DeclaredNames() : outer_(std::exchange(innermost, this)) {}
  ~DeclaredNames() { innermost = outer_; }
  DeclaredNames(const DeclaredNames&) = delete;
  DeclaredNames& operator=(const DeclaredNames&) = delete;

  const std::vector<ffi::String>& names() const { return names_; }

 private:
  friend void DeclareOp(const ffi::String&, const ffi::String&, const ffi::String&);

  static inline thread_local DeclaredNames* innermost = nullptr;
  DeclaredNames* outer_;
  std::vector<ffi::String> names_{};
};

}  // namespace mlf
