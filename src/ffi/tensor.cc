// Tensors of our own, for callers that hold nothing but tvm-ffi's. Nobody includes this file.
#include <tvm/ffi/tvm_ffi.h>

#include <cstdlib>

#include "base/dtype.h"
#include "base/registry.h"

namespace mlf {
namespace {

namespace ffi = tvm::ffi;

int64_t BytesOf(const DLTensor& tensor) {
  int64_t bytes = DtypeBytes(tensor.dtype);
  for (int i = 0; i < tensor.ndim; ++i) {
    const int64_t size = tensor.shape[i];
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes)) {
      TVM_FFI_THROW(ValueError) << "empty: shape[" << i << "] is " << size
                                << ", expected 0 or more, and 2^63 bytes at most in all";
    }
  }
  return bytes;
}

struct CpuAllocator {
  void AllocData(DLTensor* tensor) {
    constexpr size_t kAlignment = 64;  // one cache line, one AVX-512 register
    const auto bytes = static_cast<size_t>(BytesOf(*tensor));
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
                    {{"doc",
                      "(shape, dtype, device): A contiguous tensor on the CPU; its memory is not "
                      "initialized."}});
}

}  // namespace
}  // namespace mlf
