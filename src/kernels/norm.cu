// Normalisation on CUDA. Counterparts: norm.h, norm.cc (the op, which finds these kernels by their
// registered names).
#include <cuda_runtime.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/extra/cuda/device_guard.h>

#include <algorithm>

#include "base/array.h"
#include "base/dtype.h"
#include "kernels/cuda_vector.cuh"

namespace mlf {
namespace {

// A row stays in registers from its sum to its scaling: threads * kHeld vectors, 16 KiB per row at
// 256 threads; what is longer is read a second time.
constexpr int kHeld = 4;
constexpr int kBlockThreads = 256;
constexpr int64_t kMaxGrid = int64_t{1} << 30;  // below CUDA's 2^31 - 1; blocks loop over the rest

/// kThreads threads share a row: a whole block, or one warp of it.
template <int kThreads>
__device__ float RowSum(float v) {
  if constexpr (kThreads == kWarp) return WarpSum(v);
  return BlockSum<kThreads>(v);
}

template <typename Vector>
__device__ float Squares(const Vector& v) {
  float sum = 0.f;
#pragma unroll
  for (const auto& lane : v.lane) {
    const float f = static_cast<float>(lane);
    sum = fmaf(f, f, sum);
  }
  return sum;
}

template <typename T, int kN>
__device__ CudaVector<T, kN> Scale(const CudaVector<T, kN>& x, const CudaVector<T, kN>& weight,
                                   float scale) {
  CudaVector<T, kN> out;
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    out.lane[i] =
        FromFloat<T>(static_cast<float>(x.lane[i]) * scale * static_cast<float>(weight.lane[i]));
  }
  return out;
}

/// One row of n vectors. `out` may be `x`: every thread has read what it writes, and the sum, which
/// all threads wait for, comes between.
template <typename T, int kN, int kThreads>
__device__ void RmsNormRow(CudaVector<T, kN>* out, const CudaVector<T, kN>* x,
                           const CudaVector<T, kN>* __restrict__ weight, int64_t n, float eps) {
  const int first = static_cast<int>(threadIdx.x) % kThreads;
  CudaVector<T, kN> held[kHeld];
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t at = first + i * kThreads;
    if (at < n) held[i] = LoadVector(x + at);
  }
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    if (first + i * kThreads < n) sum += Squares(held[i]);
  }
#pragma unroll 1
  for (int64_t at = first + kHeld * kThreads; at < n; at += kThreads)
    sum += Squares(LoadVector(x + at));
  const float mean = RowSum<kThreads>(sum) / static_cast<float>(n * kN);
  const float scale = 1.f / sqrtf(mean + eps);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t at = first + i * kThreads;
    if (at < n) out[at] = Scale(held[i], LoadConstVector(weight + at), scale);
  }
#pragma unroll 1
  for (int64_t at = first + kHeld * kThreads; at < n; at += kThreads) {
    out[at] = Scale(LoadVector(x + at), LoadConstVector(weight + at), scale);
  }
}

template <typename T, int kN, int kThreads>
__global__ void __launch_bounds__(kBlockThreads)
    RmsNormKernel(CudaVector<T, kN>* out, const CudaVector<T, kN>* x,
                  const CudaVector<T, kN>* __restrict__ weight, int64_t rows, int64_t n,
                  float eps) {
  constexpr int kRows = kBlockThreads / kThreads;
  const int64_t stride = int64_t{gridDim.x} * kRows;
  for (int64_t r = int64_t{blockIdx.x} * kRows + threadIdx.x / kThreads; r < rows; r += stride) {
    RmsNormRow<T, kN, kThreads>(out + r * n, x + r * n, weight, n, eps);
  }
}

/// One launch over rows of `hidden` elements, in vectors of kN.
template <typename T, int kN>
void Launch(T* out, const T* x, const T* weight, int64_t rows, int64_t hidden, float eps,
            cudaStream_t stream) {
  using Vector = CudaVector<T, kN>;
  const int64_t n = hidden / kN;
  const auto launch = [&](auto kernel, int64_t rows_per_block) {
    const int64_t blocks = std::min(kMaxGrid, (rows + rows_per_block - 1) / rows_per_block);
    kernel<<<static_cast<unsigned>(blocks), kBlockThreads, 0, stream>>>(
        reinterpret_cast<Vector*>(out), reinterpret_cast<const Vector*>(x),
        reinterpret_cast<const Vector*>(weight), rows, n, eps);
  };
  if (n <= kWarp * kHeld) {
    launch(RmsNormKernel<T, kN, kWarp>, kBlockThreads / kWarp);
  } else {
    launch(RmsNormKernel<T, kN, kBlockThreads>, 1);
  }
}

void CheckCuda(const char* name, const TensorView& t, const TensorView& x) {
  if (t.device().device_type != kDLCUDA) {
    TVM_FFI_THROW(ValueError) << "rms_norm.cuda: " << name
                              << " is not a CUDA tensor: its device type is "
                              << t.device().device_type << ", expected " << int{kDLCUDA};
  }
  if (t.device().device_id != x.device().device_id) {
    TVM_FFI_THROW(ValueError) << "rms_norm.cuda: " << name << " is on device "
                              << t.device().device_id << ", x is on " << x.device().device_id;
  }
}

/// The slot `my_llm_ffi.rms_norm.cuda`. The op has checked all else.
void RmsNormCuda(TensorView out, TensorView x, TensorView weight, double eps) {
  CheckCuda("x", x, x);
  CheckCuda("weight", weight, x);
  CheckCuda("out", out, x);
  const int64_t hidden = x.size(x.ndim() - 1);
  if (x.numel() == 0) return;
  const int64_t rows = x.numel() / hidden;
  const ffi::CUDADeviceGuard guard(x.device().device_id);
  const auto stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(kDLCUDA, x.device().device_id));
  DispatchFloat(x.dtype(), [&]<typename T>() {
    T* o = Data<T>(out);
    const T *i = Data<const T>(x), *w = Data<const T>(weight);
    const bool vectors = IsVectorAligned(o) && IsVectorAligned(i) && IsVectorAligned(w) &&
                         hidden % kVectorLanes<T> == 0;
    const auto launch = vectors ? Launch<T, kVectorLanes<T>> : Launch<T, 1>;
    launch(o, i, w, rows, hidden, static_cast<float>(eps), stream);
  });
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    TVM_FFI_THROW(RuntimeError) << "rms_norm.cuda: x " << ShapeString(x) << ' '
                                << DtypeName(x.dtype()) << ": " << cudaGetErrorString(error);
  }
}

TVM_FFI_STATIC_INIT_BLOCK() {
  tvm::ffi::reflection::GlobalDef().def("my_llm_ffi.rms_norm.cuda", RmsNormCuda);
}

}  // namespace
}  // namespace mlf
