// A library of ops that are wrong, each in one way; the environment variable FAULT says which.
#include <my_llm_ffi/declare.h>

#include <cstdlib>
#include <string>

namespace {

using tvm::ffi::TensorView;

constexpr const char* kSignature = "(x: T['n', 'f32'], *, k: int) -> T['n']";

void Takes(TensorView, TensorView, int64_t) {}
void TakesDouble(TensorView, TensorView, double) {}
void Throws(TensorView, TensorView, int64_t k) {
  my_llm_ffi::Require(k > 0, "faulty", "k is ", k, ", expected more than 0");
}

}  // namespace

MY_LLM_FFI_OPS() {
  const char* variable = std::getenv("FAULT");
  const std::string fault = variable == nullptr ? "" : variable;
  if (fault == "name taken") my_llm_ffi::Declare("rms_norm", kSignature, "");
  if (fault == "no signature") my_llm_ffi::Declare("faulty", "(x: T['n'", "");
  if (fault == "other type") {
    my_llm_ffi::Declare("faulty", kSignature, "Is faulty.").Kernel("cpu", TakesDouble);
  }
  if (fault == "second kernel") {
    my_llm_ffi::Declare("faulty", kSignature, "Is faulty.")
        .Kernel("cpu", Takes)
        .Kernel("cpu", Takes);
  }
  if (fault == "no op") my_llm_ffi::RegisterKernel("no_such_op", "cpu", Takes);
  if (fault == "kernel throws") {
    my_llm_ffi::Declare("faulty", kSignature, "Is faulty.").Kernel("cpu", Throws);
  }
}
