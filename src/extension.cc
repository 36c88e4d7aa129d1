// Version, build information and the walk-through functions of tvm-ffi's packaging guide. Nobody
// includes this file.
#include <tvm/ffi/tvm_ffi.h>

namespace mlf {
namespace {

namespace refl = tvm::ffi::reflection;

TVM_FFI_STATIC_INIT_BLOCK() {
  refl::GlobalDef().def("my_llm_ffi.version", [] { return tvm::ffi::String(MLF_VERSION); });
}

}  // namespace
}  // namespace mlf
