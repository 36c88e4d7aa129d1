// Floats as Q8_0 on CUDA. Counterparts: dequantize.h (the slot), quantize.cc, quantize_simd.cc.
#include "kernels/cuda_elements_launch.h"
#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_vector.cuh"
#include "kernels/dequantize.h"
#include "quant/q8_0.h"

namespace mlf {
namespace {

using quant::Q8_0;

constexpr int kThreadValues = 8, kBlockLanes = static_cast<int>(kQuantBlock) / kThreadValues;
constexpr int kBlocksAtOnce = kElementThreads / kBlockLanes;  // that a thread block makes ...
constexpr int kBytesAtOnce =
    kBlocksAtOnce * static_cast<int>(Q8_0::kBytes);  // ... in shared memory
static_assert(kBytesAtOnce % sizeof(uint4) == 0);

template <typename T>
__device__ void LoadValues(const T* x, bool aligned, float (&v)[kThreadValues]) {
  constexpr int kPart = kVectorLanes<T> < kThreadValues ? kVectorLanes<T> : kThreadValues;
#pragma unroll
  for (int first = 0; first < kThreadValues; first += kPart) {
    CudaVector<T, kPart> part;
    if (aligned) {
      part = LoadConstVector(reinterpret_cast<const CudaVector<T, kPart>*>(x + first));
    } else {
#pragma unroll
      for (int i = 0; i < kPart; ++i) part.lane[i] = x[first + i];
    }
#pragma unroll
    for (int i = 0; i < kPart; ++i) v[first + i] = static_cast<float>(part.lane[i]);
  }
}

/// To the nearest integer, ties away from zero: truncates x plus the largest number below a half.
/// What is no number becomes 0.
__device__ inline int RoundedAway(float x) {
  return x == x ? static_cast<int>(__fadd_rn(x, copysignf(0x1.fffffep-2f, x))) : 0;
}

/// kThreadValues of a block, whose kBlockLanes lanes are neighbours; the first also writes the
/// scale. Magnitudes compare as integers, where a NaN is above all numbers.
__device__ inline void QuantizeValues(const float (&v)[kThreadValues], int lane, uint8_t* block) {
  unsigned largest = 0;
#pragma unroll
  for (const float x : v) largest = max(largest, __float_as_uint(x) & 0x7FFFFFFFu);
#pragma unroll
  for (int bits = 1; bits < kBlockLanes; bits *= 2) {
    largest = max(largest, __shfl_xor_sync(kFullWarp, largest, bits));
  }
  const float scale = __fdiv_rn(__uint_as_float(largest), 127.f), one_by = __fdiv_rn(1.f, scale);
  const float inverse = one_by <= 0x1.fffffep127f ? one_by : 0.f;
  if (lane == 0) *reinterpret_cast<F16*>(block) = F16::From(scale);
#pragma unroll
  for (int i = 0; i < kThreadValues; i += 2) {
    const int low = RoundedAway(__fmul_rn(v[i], inverse)),
              high = RoundedAway(__fmul_rn(v[i + 1], inverse));
    *reinterpret_cast<uint16_t*>(block + sizeof(F16) + lane * kThreadValues + i) =
        static_cast<uint16_t>((low & 255) | (high & 255) << 8);
  }
}

/// Rows hold whole blocks, so that all of them are one row.
template <typename T>
__global__ void __launch_bounds__(kElementThreads)
    QuantizeQ8Kernel(uint8_t* out, const T* x, int64_t blocks, bool x_aligned, bool out_aligned) {
  alignas(16) __shared__ uint8_t made[kBytesAtOnce];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kBlockLanes,
            own = thread / kBlockLanes;
  const int64_t stride = int64_t{gridDim.x} * kBlocksAtOnce;
  for (int64_t first = int64_t{blockIdx.x} * kBlocksAtOnce; first < blocks; first += stride) {
    float v[kThreadValues] = {};
    if (first + own < blocks) {
      LoadValues(x + (first + own) * kQuantBlock + lane * kThreadValues, x_aligned, v);
    }
    QuantizeValues(v, lane, made + own * Q8_0::kBytes);
    __syncthreads();
    const int64_t left = (blocks - first) * Q8_0::kBytes;
    uint8_t* to = out + first * Q8_0::kBytes;
    if (out_aligned && left >= kBytesAtOnce) {
      for (int i = thread; i < kBytesAtOnce / 16; i += kElementThreads) {
        reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(made)[i];
      }
    } else {
      for (int i = thread; i < min(left, int64_t{kBytesAtOnce}); i += kElementThreads)
        to[i] = made[i];
    }
    __syncthreads();
  }
}

/// The slot `my_llm_ffi.quantize_q8_0.cuda`.
void QuantizeQ8Cuda(TensorView out, TensorView x) {
  const CudaCall call("quantize_q8_0", {{"x", x}, {"out", out}});
  const int64_t blocks = x.numel() / kQuantBlock;
  uint8_t* to = Data<uint8_t>(out);
  DispatchFloat(x.dtype(), [&]<typename T>() {
    const T* from = Data<const T>(x);
    call.Launch(QuantizeQ8Kernel<T>, BlocksOf(blocks, kBlocksAtOnce), kElementThreads, 0, to, from,
                blocks, IsVectorAligned(from), IsVectorAligned(to));
  });
}

TVM_FFI_STATIC_INIT_BLOCK() { RegisterCudaKernel("my_llm_ffi.quantize_q8_0.cuda", QuantizeQ8Cuda); }

}  // namespace
}  // namespace mlf
