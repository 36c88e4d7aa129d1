// Rounding of activations to planes of 8 bits, and to blocks of Q8_0. Counterpart: linear_simd.h
// (contract), quantize.cc (calls).
#include "base/simd.h"
#include "kernels/linear_simd.h"

namespace mlf::MLF_LEVEL {
namespace {

typedef uint8_t NarrowU8 __attribute__((vector_size(kWidth)));

/// The largest magnitude. Magnitudes compare as integers, where a NaN is above all numbers: a block
/// with one gets a NaN scale and its outputs are NaN, as they would be without quantization.
MLF_INLINE float LargestMagnitude(F32 a, F32 b) {
  const NativeI32 mask = NativeI32{} + 0x7FFFFFFF;
  NativeI32 most{};
#pragma GCC unroll 4
  for (int p = 0; p < kParts; ++p) {
    const NativeI32 u = (NativeI32)a.part[p] & mask, v = (NativeI32)b.part[p] & mask;
    const NativeI32 larger = u > v ? u : v;
    most = most > larger ? most : larger;
  }
  int32_t lanes[kWidth], result = 0;
  std::memcpy(lanes, &most, sizeof most);
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) result = result > lanes[i] ? result : lanes[i];
  float magnitude;
  std::memcpy(&magnitude, &result, sizeof magnitude);
  return magnitude;
}

/// Rounds x to the nearest even integer by adding 1.5 * 2^23: the sum's low bits are the result,
/// for |x| <= 32512, and some bits for NaN, where a conversion would be undefined.
MLF_INLINE I32 Rounded(F32 x) {
  const I32 bits = FloatToBits(x + Set(12582912.f));
  return Map<I32>([&](int p) { return (NativeI32)((NativeU32)bits.part[p] << 16) >> 16; });
}

/// The low byte of every lane.
MLF_INLINE void StoreBytes(int8_t* q, I32 v) {
#pragma GCC unroll 4
  for (int p = 0; p < kParts; ++p) {
    const NarrowU8 bytes = __builtin_convertvector((NativeU32)v.part[p], NarrowU8);
    std::memcpy(q + kWidth * p, &bytes, sizeof bytes);
  }
}

MLF_INLINE int32_t Sum(I32 a, I32 b) {
  NativeI32 sums{};
#pragma GCC unroll 4
  for (int p = 0; p < kParts; ++p) sums += a.part[p] + b.part[p];
  int32_t lanes[kWidth], sum = 0;
  std::memcpy(lanes, &sums, sizeof sums);
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) sum += lanes[i];
  return sum;
}

template <int kPlanes>
MLF_INLINE void StorePlanes(ActivationBlock<kPlanes>& block, int offset, I32 n) {
  if constexpr (kPlanes == 1) {
    StoreBytes(block.q[0] + offset, n);
  } else {  // n = 256 * high + low, low in [-128, 127]
    const I32 high = Map<I32>([&](int p) { return (n.part[p] + 128) >> 8; });
    StoreBytes(block.q[0] + offset, high);
    StoreBytes(block.q[1] + offset, n);
  }
}

/// The scale as Q8_0 stores it, a float16, so that one plane is that format and sees the same
/// rounding as runtimes that keep activations in it; unrounded where float16 has no full precision.
MLF_INLINE float AsStored(float scale) {
  if (!(scale >= 0x1p-14f && scale <= 65504.f)) return scale;
  F16 half[kLanes];
  float lanes[kLanes];
  Store(half, Set(scale));
  Store(lanes, Load(half));
  return lanes[0];
}

template <int kPlanes>
MLF_INLINE void Quantize(uint8_t* q, const float* x, int64_t cols) {
  constexpr float kLargest = kPlanes == 1 ? 127.f : 32512.f;
  for (int64_t k = 0; k < cols; k += kQuantBlock, q += sizeof(ActivationBlock<kPlanes>)) {
    const F32 low = Load(x + k), high = Load(x + k + kLanes);
    const float scale = LargestMagnitude(low, high) / kLargest;
    // A subnormal scale has no finite inverse: such a block is zero.
    const F32 inverse = Set(scale >= 0x1p-126f ? 1.f / scale : 0.f);
    const I32 first = Rounded(low * inverse), second = Rounded(high * inverse);
    ActivationBlock<kPlanes> block;
    StorePlanes(block, 0, first);
    StorePlanes(block, kLanes, second);
    block.scale = kPlanes == 1 ? AsStored(scale) : scale;
    block.sum = Sum(first, second);
    block.scaled_sum = block.scale * static_cast<float>(block.sum);
    std::memcpy(q, &block, sizeof block);
  }
}

/// Rounds to the nearest integer, ties away from zero as roundf does, in [-127, 127]; 0 for what is
/// no number or beyond all of them.
MLF_INLINE I32 RoundedAway(F32 x) {
  return Map<I32>([&](int p) -> NativeI32 {
    const NativeF32 v = x.part[p], magnitude = v < 0.f ? -v : v;
    const NativeF32 sane = magnitude <= 128.f ? magnitude : NativeF32{};
    const NativeI32 whole = __builtin_convertvector(sane, NativeI32);
    const NativeF32 rest = sane - __builtin_convertvector(whole, NativeF32);
    const NativeI32 n = whole - (NativeI32)(rest >= 0.5f);  // a true lane is -1
    return v < 0.f ? -n : n;
  });
}

template <typename T>
MLF_INLINE void QuantizeBlocks(uint8_t* q, const T* x, int64_t blocks) {
  for (; blocks > 0; --blocks, q += quant::Q8_0::kBytes, x += kQuantBlock) {
    const F32 low = Load(x), high = Load(x + kLanes);
    const float scale = LargestMagnitude(low, high) / 127.f;
    const F32 inverse = Set(scale == 0.f ? 0.f : 1.f / scale);
    F16 half[kLanes];
    Store(half, Set(scale));
    std::memcpy(q, half, 2);
    auto* quants = reinterpret_cast<int8_t*>(q + 2);
    StoreBytes(quants, RoundedAway(low * inverse));
    StoreBytes(quants + kLanes, RoundedAway(high * inverse));
  }
}

}  // namespace

void QuantizeQ8(uint8_t* q, const float* x, int64_t blocks) { QuantizeBlocks(q, x, blocks); }
void QuantizeQ8(uint8_t* q, const F16* x, int64_t blocks) { QuantizeBlocks(q, x, blocks); }
void QuantizeQ8(uint8_t* q, const BF16* x, int64_t blocks) { QuantizeBlocks(q, x, blocks); }

void QuantizeRow(uint8_t* q, const float* x, int64_t cols, int planes) {
  if (planes == 1) {
    Quantize<1>(q, x, cols);
  } else {
    Quantize<2>(q, x, cols);
  }
}

}  // namespace mlf::MLF_LEVEL
