// Vectors of 16 bytes and sums over warps and blocks, for CUDA kernels.
#pragma once
#include <cstdint>
#include <cstring>

namespace mlf {

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullWarp = 0xFFFFFFFFu;

/// kN elements that one thread loads or stores at once.
template <typename T, int kN>
struct alignas(sizeof(T) * kN) CudaVector {
  T lane[kN];
};

/// Elements of T in a 16-byte access, the widest of a thread.
template <typename T>
inline constexpr int kVectorLanes = 16 / static_cast<int>(sizeof(T));

inline bool IsVectorAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

/// Reads *p in one access; nvcc would split a copy of the struct by the members that are used.
template <typename V>
__device__ inline V LoadVector(const V* p) {
  if constexpr (sizeof(V) == sizeof(uint4)) {
    const uint4 bits = *reinterpret_cast<const uint4*>(p);
    V v;
    memcpy(&v, &bits, sizeof v);
    return v;
  } else {
    return *p;
  }
}

/// The same through the read-only cache: for what no thread of the launch writes.
template <typename V>
__device__ inline V LoadConstVector(const V* p) {
  if constexpr (sizeof(V) == sizeof(uint4)) {
    const uint4 bits = __ldg(reinterpret_cast<const uint4*>(p));
    V v;
    memcpy(&v, &bits, sizeof v);
    return v;
  } else {
    return *p;
  }
}

/// Writes *p, in global memory, in one access. nvcc would split the store of a struct again, so it
/// is an intrinsic, the one whose way through the caches is that of any store.
template <typename V>
__device__ inline void StoreVector(V* p, const V& v) {
  if constexpr (sizeof(V) == sizeof(uint4)) {
    uint4 bits;
    memcpy(&bits, &v, sizeof v);
    __stcg(reinterpret_cast<uint4*>(p), bits);
  } else if constexpr (sizeof(V) == sizeof(uint2)) {
    uint2 bits;
    memcpy(&bits, &v, sizeof v);
    __stcg(reinterpret_cast<uint2*>(p), bits);
  } else {
    *p = v;
  }
}

/// The sum over a warp, in every lane; the same tree whatever the launch.
__device__ inline float WarpSum(float v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    v += __shfl_xor_sync(kFullWarp, v, offset);
  }
  return v;
}

/// The sum over a block of kThreads threads, in every thread. All of them must call it.
template <int kThreads>
__device__ inline float BlockSum(float v) {
  static_assert(kThreads % kWarp == 0 && kThreads <= kWarp * kWarp);
  __shared__ float warp_sum[kThreads / kWarp];
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  v = WarpSum(v);
  __syncthreads();  // an earlier sum may still be read
  if (lane == 0) warp_sum[warp] = v;
  __syncthreads();
  return WarpSum(lane < kThreads / kWarp ? warp_sum[lane] : 0.f);
}

}  // namespace mlf
