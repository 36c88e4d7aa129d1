// Reductions, sums of predecessors and sorting by the threads of a block. Counterpart:
// cuda_vector.cuh, which has the sums of floats.
#pragma once
#include <cstdint>

#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_vector.cuh"

namespace mlf {

struct MaxOf {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct MinOf {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct SumOf {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

template <typename T, typename Op>
__device__ inline T WarpReduce(T v, Op op) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    v = op(v, __shfl_xor_sync(kFullWarp, v, offset));
  }
  return v;
}

/// op over a block of kThreads threads, in every thread, as the same tree whatever the launch; op
/// is commutative. All threads must call it.
template <int kThreads, typename T, typename Op>
__device__ inline T BlockReduce(T v, Op op) {
  static_assert(kThreads % kWarp == 0 && kThreads <= kWarp * kWarp);
  __shared__ T of_warp[kThreads / kWarp];
  v = WarpReduce(v, op);
  __syncthreads();  // an earlier result may still be read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = v;
  __syncthreads();
  T all = of_warp[0];
#pragma unroll
  for (int i = 1; i < kThreads / kWarp; ++i) all = op(all, of_warp[i]);
  return all;
}

/// The sum over the threads up to and with this one; *total over all. All threads must call it.
template <int kThreads, typename T>
__device__ inline T BlockScan(T v, T* total) {
  static_assert(kThreads % kWarp == 0 && kThreads <= kWarp * kWarp);
  __shared__ T of_warp[kThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T before = __shfl_up_sync(kFullWarp, v, offset);
    if (lane >= offset) v += before;
  }
  __syncthreads();  // an earlier result may still be read
  if (lane == kWarp - 1) of_warp[warp] = v;
  __syncthreads();
  T before = 0, all = 0;
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) {
    if (i == warp) before = all;
    all += of_warp[i];
  }
  *total = all;
  return before + v;
}

/// The smallest power of two that is not below n; n > 0.
__device__ inline int PowerOfTwo(int n) { return n <= 1 ? 1 : 1 << (32 - __clz(n - 1)); }

/// Sorts `count` different values in shared memory, the smallest first; there is room for the next
/// power of two. A bitonic network (Batcher, AFIPS 1968).
template <int kThreads>
__device__ inline void BlockSort(uint64_t* values, int count) {
  const int padded = PowerOfTwo(count);
  for (int i = count + static_cast<int>(threadIdx.x); i < padded; i += kThreads) {
    values[i] = UINT64_MAX;
  }
  __syncthreads();
  for (int size = 2; size <= padded; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < padded / 2; i += kThreads) {
        const int low = 2 * i - (i & (stride - 1)), high = low + stride;
        const uint64_t a = values[low], b = values[high];
        if ((a > b) == ((low & size) == 0)) {
          values[low] = b;
          values[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace mlf
