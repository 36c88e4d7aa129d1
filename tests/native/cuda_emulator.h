// The part of CUDA that the kernels use, for the host compiler: a launch runs its blocks one after
// the other, and the threads of a block as fibers in an order that differs from one barrier to the
// next. docs/architecture.md, "CUDA without a GPU", says what this finds. Counterparts:
// src/kernels/cuda_launch.cuh, which includes it, cuda_emulator.cc, cuda_emulator_runtime.cc.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>

#include "base/half.h"

// ---- the language -------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static  // of one block at a time
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern uint3 threadIdx, blockIdx;  // of the fiber that runs
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

#define MLF_CUDA_VECTOR(scalar, name)                                  \
  struct alignas(2 * sizeof(scalar)) name##2 { scalar x, y; };         \
  struct alignas(16) name##4 { scalar x, y, z, w; };                   \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; } \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }
MLF_CUDA_VECTOR(int, int)
MLF_CUDA_VECTOR(unsigned, uint)
MLF_CUDA_VECTOR(float, float)
#undef MLF_CUDA_VECTOR

// ---- the scheduler ------------------------------------------------------------------------------

namespace mlf::emulated {

/// What a warp does together: one call for all, given what each lane brought; null for a lane that
/// takes no part or has ended.
using WarpFn = void (*)(void* const (&lanes)[32]);

/// Waits until every lane of `mask` that has not ended is here, with the same mask and `fn`; `own`
/// is what this lane brings. `place` is for messages.
void MeetWarp(unsigned mask, void* own, WarpFn fn, const char* place);

/// Waits until every thread of the block that has not ended is here; the sum of what they bring.
int MeetBlock(int own);

/// Ends the launch with an error.
[[noreturn]] void Fault(const char* what);

unsigned Lane();
void* DynamicSharedMemory();

/// Begins another sequence of thread orders. One seed gives the same orders in every run.
void SetSeed(uint64_t seed);

/// What a lane gets where CUDA leaves the value undefined; as a float not a number.
template <typename T>
T Undefined() {
  T value;
  std::memset(&value, 0xFF, sizeof value);
  return value;
}

template <typename T>
struct Shuffle {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  T value;
  unsigned from;
  T result;
  static void Exchange(void* const (&lanes)[32]) {
    for (void* to : lanes) {
      if (to == nullptr) continue;
      auto* own = static_cast<Shuffle*>(to);
      const auto* other = static_cast<const Shuffle*>(lanes[own->from]);
      own->result = other == nullptr ? Undefined<T>() : other->value;
    }
  }
};

/// The value of lane `from` of this lane's segment of `width` lanes, or its own beyond the segment.
template <typename T>
T ShuffleFrom(unsigned mask, T value, int from, int width, const char* place) {
  const int lane = static_cast<int>(Lane()), first = lane & ~(width - 1);
  const bool inside = from >= first && from < first + width;
  Shuffle<T> own{value, static_cast<unsigned>(inside ? from : lane), {}};
  MeetWarp(mask, &own, Shuffle<T>::Exchange, place);
  return own.result;
}

unsigned Ballot(unsigned mask, bool own, const char* place);

// Counterparts of src/kernels/cuda_mma.cuh, which says what they do.
template <typename T>
void Mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void LoadMatrix4(uint32_t (&r)[4], const void* shared, bool transposed);
void CopyAsync16(void* shared, const void* global, bool valid);
void CopyAsyncCommit();
void CopyAsyncWait(int groups);

}  // namespace mlf::emulated

// ---- barriers and exchanges ---------------------------------------------------------------------

inline void __syncthreads() { mlf::emulated::MeetBlock(0); }
inline int __syncthreads_count(int own) { return mlf::emulated::MeetBlock(own != 0); }
inline int __syncthreads_or(int own) { return __syncthreads_count(own) != 0; }
inline void __syncwarp(unsigned mask = ~0u) {
  mlf::emulated::MeetWarp(mask, &mask, [](void* const(&)[32]) {}, "__syncwarp");
}
inline unsigned __ballot_sync(unsigned mask, int own) {
  return mlf::emulated::Ballot(mask, own != 0, "__ballot_sync");
}
inline int __any_sync(unsigned mask, int own) {
  return mlf::emulated::Ballot(mask, own != 0, "__any_sync") != 0;
}
inline int __all_sync(unsigned mask, int own) {
  return mlf::emulated::Ballot(mask, own == 0, "__all_sync") == 0;
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  const int first = static_cast<int>(mlf::emulated::Lane()) & ~(width - 1);
  return mlf::emulated::ShuffleFrom(mask, value, first + (lane & (width - 1)), width,
                                    "__shfl_sync");
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int from = static_cast<int>(mlf::emulated::Lane()) ^ bits;
  return mlf::emulated::ShuffleFrom(mask, value, from, width, "__shfl_xor_sync");
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32) {
  const int from = static_cast<int>(mlf::emulated::Lane()) + by;
  return mlf::emulated::ShuffleFrom(mask, value, from, width, "__shfl_down_sync");
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int by, int width = 32) {
  const int from = static_cast<int>(mlf::emulated::Lane()) - by;
  return mlf::emulated::ShuffleFrom(mask, value, from, width, "__shfl_up_sync");
}

// ---- memory -------------------------------------------------------------------------------------

inline void __threadfence() {}
inline void __threadfence_block() {}
// clang-format off
template <typename T> T __ldg(const T* p) { return *p; }
template <typename T> T __ldcs(const T* p) { return *p; }
template <typename T> T __ldcg(const T* p) { return *p; }
template <typename T> void __stcs(T* p, T v) { *p = v; }
template <typename T> void __stcg(T* p, T v) { *p = v; }

template <typename T> T atomicExch(T* p, std::type_identity_t<T> v) { return std::exchange(*p, v); }
template <typename T> T atomicAdd(T* p, std::type_identity_t<T> v) { return std::exchange(*p, *p + v); }
template <typename T> T atomicOr(T* p, std::type_identity_t<T> v) { return std::exchange(*p, *p | v); }
template <typename T> T atomicMax(T* p, std::type_identity_t<T> v) { return std::exchange(*p, std::max(*p, v)); }
template <typename T> T atomicMin(T* p, std::type_identity_t<T> v) { return std::exchange(*p, std::min(*p, v)); }
template <typename T> T atomicCAS(T* p, std::type_identity_t<T> old, std::type_identity_t<T> v) {
  return std::exchange(*p, *p == old ? v : *p);
}

// ---- arithmetic ---------------------------------------------------------------------------------

template <typename A, typename B>
constexpr auto min(A a, B b) { return b < a ? std::common_type_t<A, B>(b) : a; }
template <typename A, typename B>
constexpr auto max(A a, B b) { return a < b ? std::common_type_t<A, B>(b) : a; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline void sincospif(float x, float* sin, float* cos) {
  *sin = static_cast<float>(std::sin(x * 3.141592653589793));
  *cos = static_cast<float>(std::cos(x * 3.141592653589793));
}
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __saturatef(float x) { return x >= 0 ? std::min(x, 1.f) : 0.f; }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(uint64_t x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(int64_t x) { return std::countl_zero(static_cast<uint64_t>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
int __dp4a(int a, int b, int c);
unsigned __dp4a(unsigned a, unsigned b, unsigned c);
unsigned __byte_perm(unsigned low, unsigned high, unsigned selector);
// clang-format on

// ---- the runtime --------------------------------------------------------------------------------

using cudaStream_t = struct CUstream_st*;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorInvalidDevice,
  cudaErrorInvalidConfiguration,
  cudaErrorLaunchFailure,
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

// Two devices, with 4 multiprocessors of 8.0 each; one kernel at a time on both.
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);  // of the last one

namespace mlf::emulated {
/// Runs `thread` for every thread of the grid. What went wrong, or nothing.
std::string RunGrid(const cudaLaunchConfig_t& config, const std::function<void()>& thread);

/// The same after the checks of a launch.
cudaError_t Run(const cudaLaunchConfig_t& config, const void* kernel,
                const std::function<void()>& thread);
}  // namespace mlf::emulated

/// Returns when the kernel has ended.
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return mlf::emulated::Run(*config, reinterpret_cast<const void*>(kernel),
                            [&] { kernel(arguments...); });
}
