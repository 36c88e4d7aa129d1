// Quantization of activations to 8 bits. Counterpart: linear_simd.h (contract), linear.cc (calls).
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

/// Rounds x to the nearest even integer by adding 1.5 * 2^23: the sum's low byte is the result, for
/// |x| <= 127, and some byte for NaN, where a conversion would be undefined. Returns the 16 results
/// added up into kWidth lanes.
MLF_INLINE NativeI32 StoreRounded(int8_t* q, F32 x) {
  const I32 bits = FloatToBits(x + Set(12582912.f));
  NativeI32 sum{};
#pragma GCC unroll 4
  for (int p = 0; p < kParts; ++p) {
    const NarrowU8 bytes = __builtin_convertvector((NativeU32)bits.part[p], NarrowU8);
    std::memcpy(q + kWidth * p, &bytes, sizeof bytes);
    sum += (NativeI32)((NativeU32)bits.part[p] << 24) >> 24;
  }
  return sum;
}

}  // namespace

void QuantizeQ8Row(uint8_t* q, const float* x, int64_t cols) {
  for (int64_t k = 0; k < cols; k += kQuantBlock, q += sizeof(Q8Block)) {
    const F32 low = Load(x + k), high = Load(x + k + kLanes);
    const float scale = LargestMagnitude(low, high) / 127.f;
    // A subnormal scale has no finite inverse: such a block is zero.
    const F32 inverse = Set(scale >= 0x1p-126f ? 1.f / scale : 0.f);
    Q8Block block;
    const NativeI32 sums =
        StoreRounded(block.q, low * inverse) + StoreRounded(block.q + kLanes, high * inverse);
    int32_t lanes[kWidth];
    std::memcpy(lanes, &sums, sizeof sums);
    block.scale = scale;
    block.sum = 0;
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) block.sum += lanes[i];
    block.scaled_sum = block.scale * static_cast<float>(block.sum);
    std::memcpy(q, &block, sizeof block);
  }
}

}  // namespace mlf::MLF_LEVEL
