// Memory that a CUDA kernel needs beside its arguments, from the caller's framework.
#pragma once
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/tvm_ffi.h>

#include <cstdint>
#include <string>

#include "base/array.h"
#include "base/dtype.h"
#include "kernels/cuda_launch.cuh"

namespace mlf {

/// What lies where in one allocation; parts begin at multiples of 16 bytes.
class ScratchPlan {
 public:
  /// Where `count` elements of T will lie, in bytes.
  template <typename T>
  int64_t Add(int64_t count) {
    const int64_t at = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return at;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

/// One allocation for the time of a call. The framework's allocator works in the order of the
/// caller's stream, so that memory may be given back while kernels still use it, and may be
/// captured in a graph.
class CudaScratch {
 public:
  CudaScratch(const CudaCall& call, const ScratchPlan& plan)
      : tensor_(Allocate(call, plan.bytes())) {}

  /// Whether the caller's framework offers any.
  static bool IsOffered() { return TVMFFIEnvGetDLPackManagedTensorAllocator() != nullptr; }

  template <typename T>
  T* At(int64_t offset_bytes) const {
    return reinterpret_cast<T*>(static_cast<char*>(tensor_.data_ptr()) + offset_bytes);
  }

 private:
  static ffi::Tensor Allocate(const CudaCall& call, int64_t bytes) {
    if (!IsOffered()) {
      call.Fail("needs " + std::to_string(bytes) +
                " bytes of scratch memory, and the caller's framework offers none; torch does from "
                "2.13 on, or with torch-c-dlpack-ext");
    }
    return ffi::Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, ffi::Shape({bytes}), kU8, call.device());
  }

  ffi::Tensor tensor_;
};

}  // namespace mlf
