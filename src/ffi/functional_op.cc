// Ops as functions of arrays that nobody may write, for compilers such as XLA: what an op writes in
// place is a result that has the memory of the input. Counterpart: python jax_calls.py.
#include <tvm/ffi/tvm_ffi.h>

#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/array.h"
#include "base/registry.h"

namespace mlf {
namespace {

constexpr size_t kMaxArguments = 64;
using Mask = std::bitset<kMaxArguments>;

/// Puts the arguments of such a call in the order of the op: inputs, outputs, options.
///
/// A call has the inputs that are given, the outputs, a result for each given input that is
/// written, `present` (bit i: input i is given), `unset` (bit j: option j is None), all options.
class FunctionalOp {
 public:
  FunctionalOp(std::string name, ffi::Function op, const ffi::Array<bool>& written, size_t outputs,
               size_t options)
      : name_(std::move(name)),
        op_(std::move(op)),
        inputs_(written.size()),
        outputs_(outputs),
        options_(options) {
    if (inputs_ + outputs_ + options_ > kMaxArguments) {
      TVM_FFI_THROW(ValueError) << name_ << ": has " << inputs_ + outputs_ + options_
                                << " arguments, expected at most " << kMaxArguments;
    }
    for (size_t i = 0; i < inputs_; ++i) written_[i] = written[i];
  }

  void Call(const ffi::AnyView* given, size_t count) const {
    if (count < options_ + 2) ThrowCount(count, options_ + 2);
    const ffi::AnyView* options = given + count - options_;
    const Mask present(static_cast<uint64_t>(options[-2].cast<int64_t>()));
    const Mask unset(static_cast<uint64_t>(options[-1].cast<int64_t>()));
    const size_t expected =
        present.count() + outputs_ + (present & written_).count() + options_ + 2;
    if (count != expected || (present >> inputs_).any()) ThrowCount(count, expected);

    std::array<ffi::AnyView, kMaxArguments> passed;
    const ffi::AnyView* results = given + present.count() + outputs_;
    size_t at = 0;
    for (size_t i = 0; i < inputs_; ++i) {
      if (!present[i]) continue;  // stays None
      passed[i] = *given++;
      if (written_[i]) {
        CheckSameMemory(passed[i].cast<TensorView>(), results->cast<TensorView>(), i);
        passed[i] = *results++;
      }
    }
    for (at = inputs_; at < inputs_ + outputs_; ++at) passed[at] = *given++;
    for (size_t j = 0; j < options_; ++j, ++at) {
      if (!unset[j]) passed[at] = options[j];
    }
    ffi::Any nothing;
    op_.CallPacked(passed.data(), static_cast<int32_t>(at), &nothing);
  }

 private:
  /// A compiler that ignored the aliases would hand over a result that holds garbage.
  void CheckSameMemory(const TensorView& input, const TensorView& result, size_t position) const {
    if (input.data_ptr() != result.data_ptr() && input.numel() != 0) {
      TVM_FFI_THROW(InternalError)
          << name_ << ": input " << position << " is written, and its result has other memory";
    }
  }

  [[noreturn]] void ThrowCount(size_t count, size_t expected) const {
    TVM_FFI_THROW(TypeError) << name_ << ": got " << count << " arguments of a functional call, "
                             << "expected " << expected;
  }

  std::string name_;
  ffi::Function op_;
  Mask written_{};
  size_t inputs_, outputs_, options_;
};

ffi::Function MakeFunctionalOp(const ffi::String& name, const ffi::Function& op,
                               const ffi::Array<bool>& written, int64_t outputs, int64_t options) {
  if (outputs < 0 || options < 0) {
    TVM_FFI_THROW(ValueError) << "functional_op: got " << outputs << " outputs and " << options
                              << " options";
  }
  FunctionalOp call(std::string(name), op, written, static_cast<size_t>(outputs),
                    static_cast<size_t>(options));
  return ThroughC(ffi::Function::FromPacked(
      [call = std::move(call)](const ffi::AnyView* args, int32_t count, ffi::Any*) {
        call.Call(args, static_cast<size_t>(count));
      }));
}

TVM_FFI_STATIC_INIT_BLOCK() {
  FunctionDef().def("my_llm_ffi.functional_op", MakeFunctionalOp,
                    "name, function, whether each input is written, number of outputs, number of "
                    "options: the op as a function whose written inputs are results");
}

}  // namespace
}  // namespace mlf
