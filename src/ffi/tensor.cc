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
      TVM_FFI_THROW(MemoryError) << "empty: cannot allocate " << bytes << " bytes";
    }
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

/// An uninitialized contiguous tensor on the CPU.
ffi::Tensor Empty(const ffi::Shape& shape, DLDataType dtype, DLDevice device) {
  if (device.device_type != kDLCPU) {
    TVM_FFI_THROW(NotImplementedError)
        << "empty: the device is of type " << device.device_type << ", expected the CPU";
  }
  return ffi::Tensor::FromNDAlloc(CpuAllocator(), shape, dtype, device);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  FunctionDef().def("my_llm_ffi.empty", Empty,
                    ffi::reflection::Metadata{
                        {"doc", ffi::String("(shape, dtype, device): A contiguous tensor on the "
                                            "CPU; its memory is not initialized.")}});
}

}  // namespace
}  // namespace mlf
