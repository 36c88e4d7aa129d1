// Tensors of our own, for callers that hold nothing but tvm-ffi's. Nobody includes this file.
#include <tvm/ffi/tvm_ffi.h>

#include <cstdlib>

#include "base/dtype.h"
#include "base/memory_guard.h"

namespace mlf {
namespace {

namespace ffi = tvm::ffi;

struct CpuAllocator {
  void AllocData(DLTensor* tensor) {
    constexpr size_t kAlignment = 64;  // one cache line, one AVX-512 register
    int64_t count = 1;
    for (int i = 0; i < tensor->ndim; ++i) count *= tensor->shape[i];
    const size_t bytes = count * DtypeBytes(tensor->dtype);
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    tensor->data = std::aligned_alloc(kAlignment, rounded == 0 ? kAlignment : rounded);
    if (tensor->data == nullptr) {
      TVM_FFI_THROW(MemoryError) << "empty_like: cannot allocate " << bytes << " bytes";
    }
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

/// An uninitialized contiguous tensor with the shape and dtype of x, on the CPU as x is.
ffi::Tensor EmptyLike(ffi::TensorView x) {
  if (x.device().device_type != kDLCPU) {
    TVM_FFI_THROW(NotImplementedError)
        << "empty_like: x is on device type " << x.device().device_type << ", expected the CPU";
  }
  return ffi::Tensor::FromNDAlloc(CpuAllocator(), x.shape(), x.dtype(), x.device());
}

TVM_FFI_STATIC_INIT_BLOCK() { FunctionDef().def("my_llm_ffi.empty_like", EmptyLike); }

}  // namespace
}  // namespace mlf
