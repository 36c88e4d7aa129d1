// Tensors that look at memory of others, for callees that take an object and no less.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

namespace mlf {

namespace ffi = tvm::ffi;

/// A contiguous tensor without memory of its own; whoever made it keeps `data` alive for as long as
/// anybody uses the tensor.
inline ffi::Tensor BorrowTensor(ffi::ShapeView shape, DLDataType dtype, DLDevice device,
                                void* data) {
  struct NoMemory {
    void AllocData(DLTensor* tensor, void* data) { tensor->data = data; }
    void FreeData(DLTensor*) {}
  };
  return ffi::Tensor::FromNDAlloc(NoMemory(), shape, dtype, device, data);
}

}  // namespace mlf
