// Fragments, values that are no numbers, and the shared memory of attention on tensor cores.
// Counterpart: attention_mma.cuh.
#pragma once
#include "kernels/attention_state.cuh"

namespace mlf {

inline constexpr int kMmaRows = 16;
inline constexpr int kPad =
    8;  // elements after a row in shared memory: rows 16 bytes apart mod 128

template <typename T>
__device__ __forceinline__ void Mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, BF16>) {
    MmaBf16(c, a, b);
  } else {
    MmaF16(c, a, b);
  }
}

template <typename T>
__device__ __forceinline__ uint32_t Pack(float low, float high) {
  return FromFloat<T>(low).bits | uint32_t{FromFloat<T>(high).bits} << 16;
}

// ---- values that are no numbers -----------------------------------------------------------------

// A product with a weight of zero is no number where the value is none: what a row does not see
// must not reach it by way of a neighbour's product. So such values are taken out of products whose
// rows do not all see them, and counted by a product of their own: one for +∞, 64 for −∞ and 4096
// for NaN, of which 32 keys have at most 32 each.
template <typename T>
inline constexpr uint32_t kExponentBits = std::is_same_v<T, BF16> ? 0x7F80 : 0x7C00;

template <typename T>
__device__ __forceinline__ bool IsNoNumber(uint32_t half) {
  return (half & kExponentBits<T>) == kExponentBits<T>;
}

/// Sets what is no number to zero; whether there was any.
template <typename T>
__device__ __forceinline__ bool Clean(uint32_t& word) {
  const bool low = IsNoNumber<T>(word), high = IsNoNumber<T>(word >> 16);
  if (low) word &= 0xFFFF0000u;
  if (high) word &= 0x0000FFFFu;
  return low || high;
}

template <typename T>
__device__ __forceinline__ float CountOf(uint32_t half) {
  const float infinity = (half & 0x8000) != 0 ? 64.f : 1.f,
              some = (half & 0x7FFF) == kExponentBits<T> ? infinity : 4096.f;
  return IsNoNumber<T>(half) ? some : 0.f;
}

__device__ __forceinline__ float SumOfCounts(float counts) {
  const int n = static_cast<int>(counts);
  const bool positive = (n & 63) != 0, negative = (n >> 6 & 63) != 0;
  if (n >= 4096 || (positive && negative)) return NAN;
  return positive ? INFINITY : -INFINITY;
}

// ---- shared memory ------------------------------------------------------------------------------

/// 32 keys and their values.
template <typename T, int kDim, bool kTransposed>
struct MmaStage {
  static constexpr int kKeyRows = kTransposed ? kDim : kTileKeys,
                       kKeyStride = (kTransposed ? kTileKeys : kDim) + kPad,
                       kValueStride = kDim + kPad;
  alignas(16) T k[kKeyRows * kKeyStride];
  alignas(16) T v[kTileKeys * kValueStride];
  alignas(16) int32_t positions[kTileKeys];
};

/// Warps that share 16 rows where one cannot hold their outputs in registers: each has the scores
/// of all keys, and half of the output.
template <int kDim>
inline constexpr int kHalves = kDim <= 128 ? 1 : 2;

/// What the rows of a warp see.
template <int kRows>
struct WarpViews {
  RowView row[kRows];
  ViewBounds bounds;
};

template <typename T, int kDim, int kWarps, int kParts, bool kTransposed>
struct MmaShared {
  // Chosen by room: of blocks of one warp, which read memory, four and more fit into a
  // multiprocessor, one for each of its schedulers; larger blocks share what the L2 holds.
  static constexpr int kStages = kDim <= 64 ? 3 : 2;
  // Steps of 16 dimensions whose queries stay in registers. With 32 rows of 128 dimensions, 128
  // sums and 32 scores leave room for 6 or 7 of 8; the others are few enough for two blocks to fit
  // into a multiprocessor of 9.0, 113 KiB each, so that one's softmax meets the other's products.
  static constexpr int kHeldOfTall = kTransposed ? 7 : 6;
  static constexpr int kHeldSteps = kDim <= 64 ? kDim / 16 : kParts > 1 ? kHeldOfTall : 0;
  static constexpr int kQueryStride = kDim - kHeldSteps * 16 + kPad;
  MmaStage<T, kDim, kTransposed> stage[kStages];
  static constexpr int kRows = kWarps / kHalves<kDim> * kParts * kMmaRows;
  // As accumulators lie in a thread.
  CudaVector<float, 4> total[kWarps][kParts][kDim / kHalves<kDim> / 8][kWarp];
  alignas(16) T q[kHeldSteps * 16 == kDim ? 8 : kRows * kQueryStride];
  RowWeight weight[kWarps][2 * kParts][kWarp / 4];  // of the totals, likewise
  int part[kStages];
  WarpViews<kParts * kMmaRows> views[kWarps];
  WalkMemory walk[kWarps];
};

}  // namespace mlf
