// Ops of your own in C++, declared and checked as those of my_llm_ffi, and callable from the same
// languages. Counterparts: docs/guide_own_op.md (a walk-through), my_llm_ffi.declare_op in Python.
//
// Nothing here calls a C++ symbol of another library: declarations and kernels go through tvm-ffi's
// C ABI, so that your compiler and the wheel's need not be the same. C++17.
#pragma once
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/optional.h>
#include <tvm/ffi/string.h>

#include <sstream>
#include <string>
#include <type_traits>
#include <utility>

namespace my_llm_ffi {
namespace declare_detail {

inline tvm::ffi::Function Registered(const char* name) {
  auto function = tvm::ffi::Function::GetGlobal(name);
  if (!function.has_value()) {
    TVM_FFI_THROW(RuntimeError) << name
                                << " is not registered: load libmy_llm_ffi.so before, of a "
                                   "release that has it (in Python: import my_llm_ffi)";
  }
  return *std::move(function);
}

}  // namespace declare_detail

/// Fills a slot of an op: what computes it on a device. The op is one that somebody declared, or
/// one of my_llm_ffi that lacks the device.
///
/// A kernel takes what the signature lists, in the order of the registered function: tensors, then
/// outputs, then options. Their C++ types are
///
///     T[...], Mut[...]    tvm::ffi::TensorView           | None    tvm::ffi::Optional<TensorView>
///     float, int, bool    double, int64_t, bool          | None    tvm::ffi::Optional<double> ...
///     Literal[...]        tvm::ffi::String               | None    tvm::ffi::Optional<String>
///
/// and it returns nothing. What the signature says was checked before it is called; what a
/// signature cannot say, it checks itself, with Require. It runs on the caller's stream
/// (TVMFFIEnvGetStream of tvm/ffi/extra/c_env_api.h), and keeps no tensor.
///
/// Throws KeyError when there is no such op, ValueError when the slot is taken, TypeError when the
/// kernel's arguments are not the op's.
template <typename Kernel>
void RegisterKernel(const char* op, const char* device, Kernel kernel) {
  using Info = tvm::ffi::detail::FunctionInfo<std::decay_t<Kernel>>;
  static_assert(std::is_void_v<typename Info::RetType>, "a kernel writes its outputs in place");
  declare_detail::Registered("my_llm_ffi.register_kernel")(
      tvm::ffi::String(op), tvm::ffi::String(device),
      tvm::ffi::Function::FromTyped(std::move(kernel)), tvm::ffi::String(Info::TypeSchema()));
}

/// An op that was declared: what Declare returns.
class DeclaredOp {
 public:
  explicit DeclaredOp(const char* name) : name_(name) {}

  /// RegisterKernel for this op.
  template <typename KernelFn>
  const DeclaredOp& Kernel(const char* device, KernelFn kernel) const {
    RegisterKernel(name_, device, std::move(kernel));
    return *this;
  }

 private:
  const char* name_;
};

/// Declares an op, `my_llm_ffi.<name>` of the registry. `name` and the texts are literals.
///
///     (x: T['*batch n', 'f32 bf16'], gain: T['n'] | None = None, *, cap: float = 30.0)
///         -> T['*batch n', 'may be x']
///
/// T is read, Mut is written in place; what stands behind the arrow is an output, of sizes that
/// inputs have (several: `-> {'values': T[...], 'ids': T[...]}`). First string: the shape, `*batch`
/// for any leading dimensions. Others: dtypes (f32 f16 bf16 i32 i64 u8, or `like x`; none: as the
/// first tensor), and inputs whose memory an output may be. Options are float, int, bool or
/// Literal['a', 'b'], each perhaps `| None`. docs/guide_own_op.md has the whole grammar.
///
/// Documentation: a line, paragraphs, and `argument: text` for each argument.
///
/// Throws ValueError when the name is taken, or the signature is none.
inline DeclaredOp Declare(const char* name, const char* signature, const char* doc) {
  declare_detail::Registered("my_llm_ffi.declare_op")(
      tvm::ffi::String(name), tvm::ffi::String(signature), tvm::ffi::String(doc));
  return DeclaredOp(name);
}

/// The first element of a tensor: kernels get contiguous ones.
template <typename T>
T* Data(const tvm::ffi::TensorView& tensor) {
  return reinterpret_cast<T*>(static_cast<char*>(tensor.data_ptr()) + tensor.byte_offset());
}

/// ValueError "<op>: <message>" unless `ok`: what a kernel checks beyond its signature.
template <typename... Message>
void Require(bool ok, const char* op, const Message&... message) {
  if (ok) return;
  std::ostringstream os;
  (os << ... << message);
  TVM_FFI_THROW(ValueError) << op << ": " << os.str();
}

}  // namespace my_llm_ffi

/// The one block of a library of ops; it runs once, when `my_llm_ffi.load_ops(path)` is called, in
/// any language, and what it throws arrives in that caller.
///
///     MY_LLM_FFI_OPS() {
///       my_llm_ffi::Declare("softcap", "(x: T['*b n', 'f32'], ...) -> T['*b n']", R"(...)")
///           .Kernel("cpu", SoftcapCpu);
///     }
#define MY_LLM_FFI_OPS()                                                                       \
  static void MyLlmFfiDeclareOps();                                                            \
  extern "C" TVM_FFI_DLL_EXPORT int __tvm_ffi_my_llm_ffi_ops(void*, const TVMFFIAny*, int32_t, \
                                                             TVMFFIAny*) {                     \
    TVM_FFI_SAFE_CALL_BEGIN();                                                                 \
    static const bool kDeclared = (MyLlmFfiDeclareOps(), true);                                \
    static_cast<void>(kDeclared);                                                              \
    TVM_FFI_SAFE_CALL_END();                                                                   \
  }                                                                                            \
  static void MyLlmFfiDeclareOps()
