// Dot products of unsigned weights and signed activations, four bytes to a 32-bit lane, at every
// CPU level: the only part of the matmul that needs instructions of its own. For *_simd.cc files.
#pragma once
#include "base/simd.h"
#include "quant/tile.h"

namespace mlf::MLF_LEVEL {

typedef uint8_t NativeU8 __attribute__((vector_size(4 * kWidth)));
typedef int16_t NativeI16 __attribute__((vector_size(4 * kWidth)));
typedef uint16_t NativeWord __attribute__((vector_size(4 * kWidth)));

/// A line of a tile (quant/tile.h): 64 bytes.
struct Bytes {
  NativeU8 part[kParts];

  MLF_INLINE Bytes Load(const uint8_t* p) {
    return Map<Bytes>([&](int i) {
      NativeU8 v;
      std::memcpy(&v, p + sizeof(v) * i, sizeof v);
      return v;
    });
  }
  // Shifts of 16-bit lanes: bits that cross into the neighbouring byte are for a mask to drop.
  MLF_TILE_METHOD Bytes ShiftLeft(int n) const {
    return Map<Bytes>([&](int p) { return (NativeU8)((NativeWord)part[p] << n); });
  }
  MLF_TILE_METHOD Bytes ShiftRight(int n) const {
    return Map<Bytes>([&](int p) { return (NativeU8)((NativeWord)part[p] >> n); });
  }
  /// table[b] for each byte b < 16; the table's bytes from the lowest of `low` on.
  MLF_TILE_METHOD Bytes Lookup(uint64_t low, uint64_t high) const {
    typedef uint64_t Table __attribute__((vector_size(16)));
    const Table table{low, high};
    return Map<Bytes>([&](int p) -> NativeU8 {
#if defined(__AVX512F__)
      return (NativeU8)_mm512_shuffle_epi8(_mm512_broadcast_i32x4((__m128i)table),
                                           (__m512i)part[p]);
#elif defined(__AVX2__)
      return (NativeU8)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256((__m128i)table),
                                           (__m256i)part[p]);
#elif defined(__x86_64__)
      return (NativeU8)_mm_shuffle_epi8((__m128i)table, (__m128i)part[p]);
#else
      return vqtbl1q_u8((uint8x16_t)table, part[p]);
#endif
    });
  }
};
MLF_INLINE Bytes operator&(Bytes a, uint8_t mask) {
  return Map<Bytes>([&](int p) { return a.part[p] & (NativeU8{} + mask); });
}
MLF_INLINE Bytes operator|(Bytes a, Bytes b) {
  return Map<Bytes>([&](int p) { return a.part[p] | b.part[p]; });
}

MLF_INLINE I32 SplatI32(int32_t x) {
  return Map<I32>([&](int) { return NativeI32{} + x; });
}
MLF_INLINE I32 ShiftLeft(I32 v, int n) {
  return Map<I32>([&](int p) { return (NativeI32)((NativeU32)v.part[p] << n); });
}

// What formats compute their scales with (quant/super_block.h): 32-bit lanes, shifted as unsigned.
MLF_INLINE I32 operator<<(I32 v, int n) { return ShiftLeft(v, n); }
MLF_INLINE I32 operator>>(I32 v, int n) {
  return Map<I32>([&](int p) { return (NativeI32)((NativeU32)v.part[p] >> n); });
}
MLF_INLINE I32 operator&(I32 v, int32_t mask) {
  return Map<I32>([&](int p) { return v.part[p] & mask; });
}
MLF_INLINE I32 operator|(I32 a, I32 b) {
  return Map<I32>([&](int p) { return a.part[p] | b.part[p]; });
}
MLF_INLINE I32 operator+(I32 v, int32_t n) {
  return Map<I32>([&](int p) { return v.part[p] + n; });
}
MLF_INLINE I32 operator-(I32 v, int32_t n) { return v + -n; }
/// v < limit ? below : otherwise, lane by lane.
MLF_INLINE I32 WhereBelow(I32 v, int32_t limit, I32 below, I32 otherwise) {
  return Map<I32>([&](int p) -> NativeI32 {
    const NativeI32 mask = v.part[p] < limit;
    return (below.part[p] & mask) | (otherwise.part[p] & ~mask);
  });
}

/// The bytes at p of the lanes of part i.
MLF_INLINE auto LoadPart(const uint8_t* p, int i) {
#if defined(__AVX512F__)
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + kWidth * i));
#elif defined(__AVX2__)
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + kWidth * i));
#else
  uint32_t four;
  std::memcpy(&four, p + kWidth * i, sizeof four);
#if defined(__x86_64__)
  return _mm_cvtsi32_si128(static_cast<int>(four));
#else
  return vcreate_u8(four);
#endif
#endif
}

/// Sixteen numbers of a tile's head in lanes.
struct Lanes {
  using Ints = I32;
  using Floats = F32;

  MLF_INLINE F32 Singles(const uint8_t* p) { return Load(reinterpret_cast<const float*>(p)); }
  MLF_INLINE F32 Halves(const uint8_t* p) { return Load(reinterpret_cast<const F16*>(p)); }
  MLF_INLINE I32 Unsigned(const uint8_t* p) {
    return Map<I32>([&](int i) -> NativeI32 {
#if defined(__AVX512F__)
      return (NativeI32)_mm512_cvtepu8_epi32(LoadPart(p, i));
#elif defined(__AVX2__)
      return (NativeI32)_mm256_cvtepu8_epi32(LoadPart(p, i));
#elif defined(__x86_64__)
      return (NativeI32)_mm_cvtepu8_epi32(LoadPart(p, i));
#else
      return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(LoadPart(p, i)))));
#endif
    });
  }
  MLF_INLINE I32 Signed(const uint8_t* p) {
    return Map<I32>([&](int i) -> NativeI32 {
#if defined(__AVX512F__)
      return (NativeI32)_mm512_cvtepi8_epi32(LoadPart(p, i));
#elif defined(__AVX2__)
      return (NativeI32)_mm256_cvtepi8_epi32(LoadPart(p, i));
#elif defined(__x86_64__)
      return (NativeI32)_mm_cvtepi8_epi32(LoadPart(p, i));
#else
      return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(LoadPart(p, i)))));
#endif
    });
  }
};
/// Four activations in every lane.
MLF_INLINE NativeU8 SplatBytes(const int8_t* four) {
  int32_t word;
  std::memcpy(&word, four, sizeof word);
  return (NativeU8)(NativeI32{} + word);
}

/// The sum over kLines lines, all eight of a block of 32 k or the four of half a block, of
/// (q - kOffset) * x for the 16 rows of a tile, exactly. kMax is the largest unsigned weight q; x
/// is in [-127, 127] (one plane) or [-128, 127] (two).
///
/// Start and Total take sum(x), for the offset to come off as -offset * sum(x): at the start where
/// the level multiplies unsigned by signed bytes into 32-bit sums, at the end elsewhere, to hold
/// fewer registers. x86 without such an instruction sums pairs of products in 16 bits, over as many
/// lines as can not overflow: eight of 4-bit weights (8 * 2 * 15 * 128 < 2^15), four of 5-bit ones,
/// two of 6-bit ones in one plane (2 * 2 * 63 * 127 < 2^15); 8-bit weights go back to signed ones
/// there, whose magnitude is at most 128 (2 * 128 * 127 < 2^15).
#if defined(__AVX512VNNI__)

template <int kMax, int kOffset, int kLines>
class BlockDot {
 public:
  MLF_INLINE Bytes Weights(Bytes unsigned_line) { return unsigned_line; }

  MLF_TILE_METHOD void Start(int32_t sum) { sum_ = SplatI32(-kOffset * sum); }
  MLF_TILE_METHOD void Add(Bytes w, NativeU8 x) {
    sum_.part[0] =
        (NativeI32)_mm512_dpbusd_epi32((__m512i)sum_.part[0], (__m512i)w.part[0], (__m512i)x);
  }
  MLF_TILE_METHOD void EndLines(int) {}
  MLF_TILE_METHOD void Times256() { sum_ = ShiftLeft(sum_, 8); }
  MLF_TILE_METHOD I32 Total(int32_t) const { return sum_; }

 private:
  I32 sum_;
};

#elif defined(__x86_64__)

#if defined(__AVX2__)
MLF_INLINE NativeI16 PairProducts(NativeU8 w, NativeU8 x) {
  return (NativeI16)_mm256_maddubs_epi16((__m256i)w, (__m256i)x);
}
MLF_INLINE NativeI32 AddPairs(NativeI16 pairs) {
  return (NativeI32)_mm256_madd_epi16((__m256i)pairs, (__m256i)(NativeI16{} + int16_t{1}));
}
MLF_INLINE NativeU8 Magnitude(NativeU8 w) { return (NativeU8)_mm256_abs_epi8((__m256i)w); }
MLF_INLINE NativeU8 WithSign(NativeU8 x, NativeU8 sign) {
  return (NativeU8)_mm256_sign_epi8((__m256i)x, (__m256i)sign);
}
#else
MLF_INLINE NativeI16 PairProducts(NativeU8 w, NativeU8 x) {
  return (NativeI16)_mm_maddubs_epi16((__m128i)w, (__m128i)x);
}
MLF_INLINE NativeI32 AddPairs(NativeI16 pairs) {
  return (NativeI32)_mm_madd_epi16((__m128i)pairs, (__m128i)(NativeI16{} + int16_t{1}));
}
MLF_INLINE NativeU8 Magnitude(NativeU8 w) { return (NativeU8)_mm_abs_epi8((__m128i)w); }
MLF_INLINE NativeU8 WithSign(NativeU8 x, NativeU8 sign) {
  return (NativeU8)_mm_sign_epi8((__m128i)x, (__m128i)sign);
}
#endif

template <int kMax, int kOffset, int kLines>
class BlockDot {
 public:
  static constexpr bool kSigned = kMax > 127;
  static constexpr int kLinesIn16Bits = kMax <= 15 ? kLines : kMax <= 31 ? 4 : 2;

  MLF_INLINE Bytes Weights(Bytes line) {
    if constexpr (!kSigned) return line;
    return Map<Bytes>([&](int p) { return line.part[p] ^ (NativeU8{} + uint8_t{0x80}); });
  }

  MLF_TILE_METHOD void Start(int32_t) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      sum_.part[p] = NativeI32{};
      pairs_[p] = NativeI16{};
    }
  }
  MLF_TILE_METHOD void Add(Bytes w, NativeU8 x) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      if constexpr (kSigned) {
        sum_.part[p] += AddPairs(PairProducts(Magnitude(w.part[p]), WithSign(x, w.part[p])));
      } else {
        pairs_[p] += PairProducts(w.part[p], x);
      }
    }
  }
  /// To be called after every second line of eight, every line of four, with how many there were.
  MLF_TILE_METHOD void EndLines(int lines) {
    if (kSigned || lines % kLinesIn16Bits != 0) return;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      sum_.part[p] += AddPairs(pairs_[p]);
      pairs_[p] = NativeI16{};
    }
  }
  /// After the last line of a plane.
  MLF_TILE_METHOD void Times256() { sum_ = ShiftLeft(sum_, 8); }
  MLF_TILE_METHOD I32 Total(int32_t sum) const {
    return kSigned || kOffset == 0 ? sum_ : sum_ + SplatI32(-kOffset * sum);
  }

 private:
  I32 sum_;
  NativeI16 pairs_[kParts];
};

#elif defined(__aarch64__)

template <int kMax, int kOffset, int kLines>
class BlockDot {
 public:
  static constexpr bool kSigned = kMax > 127;

  MLF_INLINE Bytes Weights(Bytes line) {
    if constexpr (!kSigned) return line;
    return Map<Bytes>([&](int p) { return line.part[p] ^ (NativeU8{} + uint8_t{0x80}); });
  }

  MLF_TILE_METHOD void Start(int32_t sum) { sum_ = SplatI32(kSigned ? 0 : -kOffset * sum); }
  MLF_TILE_METHOD void Add(Bytes w, NativeU8 x) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      const int8x16_t a = (int8x16_t)w.part[p], b = (int8x16_t)x;
#if defined(__ARM_FEATURE_DOTPROD)
      sum_.part[p] = vdotq_s32(sum_.part[p], a, b);
#else
      const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
      const int32x4_t high = vpaddlq_s16(vmull_high_s8(a, b));
      sum_.part[p] += vpaddq_s32(low, high);
#endif
    }
  }
  MLF_TILE_METHOD void EndLines(int) {}
  MLF_TILE_METHOD void Times256() { sum_ = ShiftLeft(sum_, 8); }
  MLF_TILE_METHOD I32 Total(int32_t) const { return sum_; }

 private:
  I32 sum_;
};

#endif

}  // namespace mlf::MLF_LEVEL
