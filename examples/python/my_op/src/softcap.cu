// The kernel of softcap for CUDA. Counterparts: softcap.h, softcap.cc (the declaration).
#include <cuda_bf16.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/extra/cuda/base.h>
#include <tvm/ffi/extra/cuda/device_guard.h>

#include "softcap.h"

namespace {

using tvm::ffi::TensorView;

__device__ float Widen(float value) { return value; }
__device__ float Widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ void Store(float value, float& out) { out = value; }
__device__ void Store(float value, __nv_bfloat16& out) { out = __float2bfloat16(value); }

// x and out may be the same memory, so neither is __restrict__.
template <typename T>
__global__ void Softcap(const T* x, T* out, int64_t n, float cap) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) Store(cap * tanhf(Widen(x[i]) / cap), out[i]);
}

template <typename T>
void Launch(const TensorView& x, const TensorView& out, float cap, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t n = x.numel(), blocks = (n + kThreads - 1) / kThreads;
  Softcap<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(my_llm_ffi::Data<const T>(x),
                                                                  my_llm_ffi::Data<T>(out), n, cap);
  TVM_FFI_CHECK_CUDA_ERROR(cudaGetLastError());
}

}  // namespace

void SoftcapCuda(TensorView x, TensorView out, double cap) {
  my_llm_ffi::Require(cap > 0, "softcap", "cap must be positive, got ", cap);
  if (x.numel() == 0) return;
  const int device = x.device().device_id;
  const tvm::ffi::CUDADeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(kDLCUDA, device));
  const auto launch = x.dtype().code == kDLBfloat ? Launch<__nv_bfloat16> : Launch<float>;
  launch(x, out, static_cast<float>(cap), stream);
}
