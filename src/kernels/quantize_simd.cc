// Rounding of activations to planes of 8 bits, and to blocks of Q8_0. Counterpart: linear_simd.h
// (contract), quantize.cc (calls).
#include "base/simd_row.h"
#include "kernels/linear_simd.h"
#include "kernels/turned_words.h"

namespace mlf::MLF_LEVEL {
namespace {

/// The larger magnitude of each lane, as bits.
MLF_INLINE I32 Magnitudes(F32 a, F32 b) {
  return Map<I32>([&](int p) {
    const NativeI32 u = (NativeI32)a.part[p] & 0x7FFFFFFF, v = (NativeI32)b.part[p] & 0x7FFFFFFF;
    return u > v ? u : v;
  });
}

/// Rounds x to the nearest even integer by adding 1.5 * 2^23: the sum's low bits are the result,
/// for |x| <= 32512, and some bits for NaN, where a conversion would be undefined.
MLF_INLINE I32 Rounded(F32 x) {
  const I32 bits = FloatToBits(x + Set(12582912.f));
  return Map<I32>([&](int p) { return (NativeI32)((NativeU32)bits.part[p] << 16) >> 16; });
}

/// The low byte of every lane. Written out, because GCC takes a __builtin_convertvector to bytes
/// apart, lane by lane.
MLF_INLINE void StoreBytes(int8_t* q, I32 v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8((__m512i)v.part[0]));
#elif defined(__AVX2__)
  const __m256i low = (__m256i)(v.part[0] & 0xFF), high = (__m256i)(v.part[1] & 0xFF);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(q),
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
#elif defined(__x86_64__)
  const auto words = [&](int p) {
    return _mm_packus_epi32((__m128i)(v.part[p] & 0xFF), (__m128i)(v.part[p + 1] & 0xFF));
  };
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm_packus_epi16(words(0), words(2)));
#else
  const auto words = [&](int p) {
    return vcombine_s16(vmovn_s32((int32x4_t)v.part[p]), vmovn_s32((int32x4_t)v.part[p + 1]));
  };
  vst1q_s8(q, vcombine_s8(vmovn_s16(words(0)), vmovn_s16(words(2))));
#endif
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

// ---- blocks, sixteen at a time ------------------------------------------------------------------

constexpr int kBlocksAtOnce = kLanes;  // whose scales are one vector

/// A vector of each of 16 blocks, and what all lanes of each come to: lane b is that of block b.
struct BlockVectors {
  int32_t lanes[kBlocksAtOnce][kLanes] = {};

  MLF_TILE_METHOD void Set(int block, I32 v) {
    Store(reinterpret_cast<float*>(lanes[block]), BitsToFloat(v));
  }
  template <typename Fn>
  MLF_TILE_METHOD I32 Reduce(Fn fn) const {
    constexpr int64_t kRowBytes = sizeof lanes[0];
    const auto* rows = reinterpret_cast<const uint8_t*>(lanes);
    I32 result = Map<I32>([](int) { return NativeI32{}; });
#pragma GCC unroll 4
    for (int64_t at = 0; at < kRowBytes; at += kRowBytes / kTurnedWords) {
      const TurnedWords words = LoadTurned(rows + at, kRowBytes);
#pragma GCC unroll 4
      for (int j = 0; j < kTurnedWords; ++j) {
        result = Map<I32>([&](int p)
                              MLF_TILE_LAMBDA { return fn(result.part[p], words.of[j].part[p]); });
      }
    }
    return result;
  }
};

/// The largest magnitude of each of up to 16 blocks. Magnitudes compare as integers, where a NaN is
/// above all numbers: a block with one gets a NaN scale and its outputs are NaN, as they would be
/// without quantization.
template <typename T>
MLF_INLINE F32 LargestMagnitudes(const T* x, int blocks) {
  constexpr int64_t kAhead = 1024;  // values
  BlockVectors magnitudes;
  for (int b = 0; b < blocks; ++b) {
    const T* at = x + b * kQuantBlock;
    Prefetch(at, kAhead);
    Prefetch(at + kLanes, kAhead);
    magnitudes.Set(b, Magnitudes(Load(at), Load(at + kLanes)));
  }
  return BitsToFloat(magnitudes.Reduce([](NativeI32 a, NativeI32 b)
                                           MLF_TILE_LAMBDA -> NativeI32 { return a > b ? a : b; }));
}

// ---- activations --------------------------------------------------------------------------------

/// The scale as Q8_0 stores it, a float16, so that one plane is that format and sees the same
/// rounding as runtimes that keep activations in it; unrounded where float16 has no full precision.
MLF_INLINE F32 AsStored(F32 scale) {
  F16 half[kLanes];
  Store(half, scale);
  const F32 rounded = Load(half);
  return Map<F32>([&](int p) -> NativeF32 {
    const NativeF32 v = scale.part[p];
    return ((v >= 0x1p-14f) & (v <= 65504.f)) ? rounded.part[p] : v;
  });
}

/// Up to kBlocksAtOnce blocks: first all scales, then all integers.
template <int kPlanes>
MLF_INLINE void QuantizeSome(ActivationBlock<kPlanes>* blocks, const float* x, int count) {
  const F32 scale = LargestMagnitudes(x, count) / Set(kPlanes == 1 ? 127.f : 32512.f);
  // A subnormal scale has no finite inverse: such a block is zero.
  const F32 inverse = Map<F32>([&](int p) -> NativeF32 {
    const NativeF32 v = scale.part[p];
    return v >= 0x1p-126f ? (NativeF32{} + 1.f) / v : NativeF32{};
  });
  float factor[kBlocksAtOnce];
  Store(factor, inverse);
  BlockVectors low, high;
  for (int b = 0; b < count; ++b, x += kQuantBlock) {
    const F32 f = Set(factor[b]);
    const I32 first = Rounded(Load(x) * f), second = Rounded(Load(x + kLanes) * f);
    StorePlanes(blocks[b], 0, first);
    StorePlanes(blocks[b], kLanes, second);
    low.Set(b, first);
    high.Set(b, second);
  }
  const auto add = [](NativeI32 a, NativeI32 b) MLF_TILE_LAMBDA { return a + b; };
  const I32 half_sum = low.Reduce(add), sum = half_sum + high.Reduce(add);
  const F32 stored = kPlanes == 1 ? AsStored(scale) : scale;
  float scales[kBlocksAtOnce], scaled_sums[kBlocksAtOnce];
  int32_t sums[kBlocksAtOnce], half_sums[kBlocksAtOnce];
  Store(scales, stored);
  Store(scaled_sums, stored * ToFloat(sum));
  std::memcpy(sums, &sum, sizeof sums);
  std::memcpy(half_sums, &half_sum, sizeof half_sums);
  for (int b = 0; b < count; ++b) {
    blocks[b].scale = scales[b];
    blocks[b].sum = sums[b];
    blocks[b].half_sum = half_sums[b];
    blocks[b].scaled_sum = scaled_sums[b];
  }
}

template <int kPlanes>
MLF_INLINE void Quantize(uint8_t* q, const float* x, int64_t cols) {
  auto* blocks = reinterpret_cast<ActivationBlock<kPlanes>*>(q);
  int64_t left = cols / kQuantBlock;
  for (; left >= kBlocksAtOnce; left -= kBlocksAtOnce) {
    QuantizeSome(blocks, x, kBlocksAtOnce);
    blocks += kBlocksAtOnce;
    x += kBlocksAtOnce * kQuantBlock;
  }
  if (left > 0) QuantizeSome(blocks, x, static_cast<int>(left));
}

// ---- Q8_0 ---------------------------------------------------------------------------------------

/// Rounds to the nearest integer, ties away from zero as roundf does: truncates x plus the largest
/// number below a half. What is no number becomes 0.
MLF_INLINE I32 RoundedAway(F32 x) {
  return Map<I32>([&](int p) -> NativeI32 {
    const NativeF32 v = x.part[p] == x.part[p] ? x.part[p] : NativeF32{};
    const NativeI32 sign = (NativeI32)v & INT32_MIN,
                    half = (NativeI32)(NativeF32{} + 0x1.fffffep-2f);
    return __builtin_convertvector(v + (NativeF32)(half | sign), NativeI32);
  });
}

/// What a block is multiplied by; 0 where its scale is 0 or no number, or has no finite inverse.
MLF_INLINE F32 InverseScales(F32 scale) {
  return Map<F32>([&](int p) -> NativeF32 {
    const NativeF32 inverse = (NativeF32{} + 1.f) / scale.part[p];
    return inverse <= 0x1.fffffep127f ? inverse : NativeF32{};
  });
}

template <typename T>
MLF_INLINE void QuantizeSome(uint8_t* q, const T* x, int blocks) {
  const F32 scale = LargestMagnitudes(x, blocks) / Set(127.f);
  F16 stored[kBlocksAtOnce];
  float inverse[kBlocksAtOnce];
  Store(stored, scale);
  Store(inverse, InverseScales(scale));
  for (int b = 0; b < blocks; ++b, q += quant::Q8_0::kBytes, x += kQuantBlock) {
    const F32 factor = Set(inverse[b]);
    auto* quants = reinterpret_cast<int8_t*>(q + sizeof(F16));
    std::memcpy(q, stored + b, sizeof(F16));
    StoreBytes(quants, RoundedAway(Load(x) * factor));
    StoreBytes(quants + kLanes, RoundedAway(Load(x + kLanes) * factor));
  }
}

template <typename T>
MLF_INLINE void QuantizeBlocks(RowOut<uint8_t> out, const T* x, int64_t blocks) {
  constexpr int64_t kSomeBytes = kBlocksAtOnce * quant::Q8_0::kBytes, kLinesBytes = 2 * kSomeBytes;
  static_assert(kLinesBytes % kCacheLine == 0);
  uint8_t* q = out.data;
  for (; out.stream && blocks >= 2 * kBlocksAtOnce; blocks -= 2 * kBlocksAtOnce) {
    alignas(kCacheLine) uint8_t lines[kLinesBytes];
    QuantizeSome(lines, x, kBlocksAtOnce);
    QuantizeSome(lines + kSomeBytes, x + kBlocksAtOnce * kQuantBlock, kBlocksAtOnce);
    StreamLines(q, lines, kLinesBytes);
    q += kLinesBytes;
    x += 2 * kBlocksAtOnce * kQuantBlock;
  }
  for (; blocks >= kBlocksAtOnce; blocks -= kBlocksAtOnce) {
    QuantizeSome(q, x, kBlocksAtOnce);
    q += kSomeBytes;
    x += kBlocksAtOnce * kQuantBlock;
  }
  QuantizeSome(q, x, static_cast<int>(blocks));
  if (out.stream) EndStream();
}

}  // namespace

void QuantizeQ8(RowOut<uint8_t> q, const float* x, int64_t blocks) { QuantizeBlocks(q, x, blocks); }
void QuantizeQ8(RowOut<uint8_t> q, const F16* x, int64_t blocks) { QuantizeBlocks(q, x, blocks); }
void QuantizeQ8(RowOut<uint8_t> q, const BF16* x, int64_t blocks) { QuantizeBlocks(q, x, blocks); }

void QuantizeRow(uint8_t* q, const float* x, int64_t cols, int planes) {
  if (planes == 1) {
    Quantize<1>(q, x, cols);
  } else {
    Quantize<2>(q, x, cols);
  }
}

}  // namespace mlf::MLF_LEVEL
