// Consecutive words of 16 rows, turned so that lanes are rows. For *_simd.cc files.
#pragma once
#include "base/simd.h"
#include "kernels/transpose.h"
#include "quant/tile.h"

namespace mlf::MLF_LEVEL {

// Quads are 128 bits, the unit that every level shuffles within cheaply: quad q of a register takes
// rows 4q … 4q + 3 (of those the register holds), so that 4x4 transposes inside quads do the rest.

/// Four words of each of the rows `rows`, rows + stride, …: one quad each.
MLF_INLINE NativeI32 LoadQuads(const uint8_t* rows, [[maybe_unused]] int64_t stride) {
#if defined(__AVX512F__)
  const auto quad = [&](int q) MLF_TILE_LAMBDA {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + q * stride));
  };
  __m512i v = _mm512_castsi128_si512(quad(0));
  v = _mm512_inserti32x4(v, quad(1), 1);
  v = _mm512_inserti32x4(v, quad(2), 2);
  return (NativeI32)_mm512_inserti32x4(v, quad(3), 3);
#elif defined(__AVX2__)
  const auto* low = reinterpret_cast<const __m128i*>(rows);
  const auto* high = reinterpret_cast<const __m128i*>(rows + stride);
  return (NativeI32)_mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(low)),
                                            _mm_loadu_si128(high), 1);
#else
  NativeI32 v;
  std::memcpy(&v, rows, sizeof v);
  return v;
#endif
}

/// Shuffles words of quads as in transpose.h.
template <typename From>
MLF_INLINE NativeI32 ShuffleWords(NativeI32 a, NativeI32 b) {
  return (NativeI32)Shuffle<From>((NativeF32)a, (NativeF32)b);
}

inline constexpr int kTurnedWords = 4;

/// Words 0 … 3 of 16 rows: lane r of words[j] is word j of row r.
struct TurnedWords {
  I32 of[kTurnedWords];
};
MLF_INLINE TurnedWords LoadTurned(const uint8_t* rows, int64_t row_bytes) {
  TurnedWords words;
#pragma GCC unroll 4
  for (int p = 0; p < kParts; ++p) {
    const uint8_t* first = rows + p * kWidth * row_bytes;
    const NativeI32 a = LoadQuads(first, 4 * row_bytes),
                    b = LoadQuads(first + row_bytes, 4 * row_bytes),
                    c = LoadQuads(first + 2 * row_bytes, 4 * row_bytes),
                    d = LoadQuads(first + 3 * row_bytes, 4 * row_bytes);
    const NativeI32 ab = ShuffleWords<Low32>(a, b), cd = ShuffleWords<Low32>(c, d),
                    ab2 = ShuffleWords<High32>(a, b), cd2 = ShuffleWords<High32>(c, d);
    words.of[0].part[p] = ShuffleWords<Low64>(ab, cd);
    words.of[1].part[p] = ShuffleWords<High64>(ab, cd);
    words.of[2].part[p] = ShuffleWords<Low64>(ab2, cd2);
    words.of[3].part[p] = ShuffleWords<High64>(ab2, cd2);
  }
  return words;
}

/// The lower and the upper 16 bits of every lane, as 16 values.
MLF_INLINE void StoreHalfWords(uint8_t* low, uint8_t* high, I32 words) {
#pragma GCC unroll 4
  for (int p = 0; p < kParts; ++p) {
    const NativeU32 both = (NativeU32)words.part[p];
    const NativeU16 first = __builtin_convertvector(both & 0xFFFF, NativeU16),
                    second = __builtin_convertvector(both >> 16, NativeU16);
    std::memcpy(low + sizeof(first) * p, &first, sizeof first);
    std::memcpy(high + sizeof(second) * p, &second, sizeof second);
  }
}

}  // namespace mlf::MLF_LEVEL
