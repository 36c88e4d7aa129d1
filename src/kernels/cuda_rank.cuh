// The order of logits and their softmax weights on CUDA. Counterparts: ranking.h, softmax_weight.h.
#pragma once
#include <cstdint>

#include "kernels/cuda_launch.cuh"

namespace mlf {

inline constexpr uint32_t kInfKey = 0x007FFFFF, kLowestKey = 0xFF7FFFFF, kMinusInfKey = 0xFF800000;
inline constexpr uint32_t kNanKey = UINT32_MAX;
inline constexpr float kLog2E = 1.44269504f;

/// Falling with the value; 0 and -0 are one, NaN comes last.
__device__ inline uint32_t KeyOf(float value) {
  const int bits = __float_as_int(value + 0.f);
  const uint32_t key = 0x7FFFFFFFu - static_cast<uint32_t>(bits ^ ((bits >> 31) & 0x7FFFFFFF));
  return value == value ? key : kNanKey;
}

__device__ inline float ValueOf(uint32_t key) {
  const int rising = static_cast<int>(0x7FFFFFFFu - key);
  return __int_as_float(rising ^ ((rising >> 31) & 0x7FFFFFFF));
}

/// Orders as integers: a larger value first, of equals a lower id.
__device__ inline uint64_t RankOf(float value, int64_t id) {
  return uint64_t{KeyOf(value)} << 32 | static_cast<uint32_t>(id);
}
__device__ inline int32_t IdOf(uint64_t rank) { return static_cast<int32_t>(rank & 0xFFFFFFFF); }
__device__ inline float ValueOfRank(uint64_t rank) {
  return ValueOf(static_cast<uint32_t>(rank >> 32));
}

/// exp((x - max) / temperature) for x up to max > -inf and scale = log2(e) / temperature: 1 where x
/// is max, an infinite one too; 0 for -inf and NaN.
__device__ inline float SoftmaxWeight(float x, float max, float scale) {
  const float weight = exp2f(fmaxf((x - max) * scale, -200.f));  // fmaxf drops the NaN of inf - inf
  return x == max ? 1.f : weight;
}

}  // namespace mlf
