// Functions of two arrays, element by element, as CUDA kernels.
#pragma once
#include "kernels/cuda_elements_launch.h"
#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_vector.cuh"

namespace mlf {

/// out[i] = Fn()(a[i], b[i]) for i < n. `out` may be a or b: an element is read by the thread that
/// writes it, before it does.
template <typename Fn, typename T, int kN>
__global__ void __launch_bounds__(kElementThreads)
    ElementsKernel(T* out, const T* a, const T* b, int64_t n) {
  using Vector = CudaVector<T, kN>;
  const int64_t vectors = n / kN, stride = int64_t{gridDim.x} * kElementThreads * kElementVectors;
  for (int64_t first = int64_t{blockIdx.x} * kElementThreads * kElementVectors + threadIdx.x;
       first < vectors; first += stride) {
    Vector x[kElementVectors], y[kElementVectors];
#pragma unroll
    for (int i = 0; i < kElementVectors; ++i) {
      const int64_t at = first + i * kElementThreads;
      if (at >= vectors) continue;
      x[i] = LoadVector(reinterpret_cast<const Vector*>(a) + at);
      y[i] = LoadVector(reinterpret_cast<const Vector*>(b) + at);
    }
#pragma unroll
    for (int i = 0; i < kElementVectors; ++i) {
      const int64_t at = first + i * kElementThreads;
      if (at >= vectors) continue;
      Vector z;
#pragma unroll
      for (int j = 0; j < kN; ++j) z.lane[j] = Fn()(x[i].lane[j], y[i].lane[j]);
      StoreVector(reinterpret_cast<Vector*>(out) + at, z);
    }
  }
  const int64_t rest = vectors * kN + threadIdx.x;  // fewer than a vector are left
  if (blockIdx.x == 0 && rest < n) out[rest] = Fn()(a[rest], b[rest]);
}

template <typename Fn, typename T>
void LaunchElements(const CudaCall& call, T* out, const T* a, const T* b, int64_t n) {
  constexpr int kN = kVectorLanes<T>;
  const bool aligned = IsVectorAligned(out) && IsVectorAligned(a) && IsVectorAligned(b);
  const auto kernel = aligned ? ElementsKernel<Fn, T, kN> : ElementsKernel<Fn, T, 1>;
  call.Launch(kernel, ElementBlocks(n, aligned ? kN : 1), kElementThreads, 0, out, a, b, n);
}

}  // namespace mlf
