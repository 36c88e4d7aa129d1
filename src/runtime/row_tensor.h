// Tensors of float32 rows that outlive what wrote them.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <memory>
#include <string>

#include "base/buffer.h"
#include "base/dtype.h"

namespace mlf {

/// [rows, cols], zero. `what` names the rows in the MemoryError.
inline tvm::ffi::Tensor NewRows(const char* what, int64_t rows, int64_t cols) {
  struct Memory {  // owned by the tensor that views it
    const char* what;
    std::shared_ptr<Buffer> buffer{};
    void AllocData(DLTensor* tensor) {
      const int64_t n = tensor->shape[0], bytes = n * tensor->shape[1] * int64_t{sizeof(float)};
      buffer = std::make_shared<Buffer>(Buffer::For(std::to_string(n) + " rows of " + what, bytes));
      tensor->data = buffer->data();
    }
    void FreeData(DLTensor*) {}
  };
  return tvm::ffi::Tensor::FromNDAlloc(Memory{what}, tvm::ffi::Shape({rows, cols}), kF32,
                                       DLDevice{kDLCPU, 0});
}

}  // namespace mlf
