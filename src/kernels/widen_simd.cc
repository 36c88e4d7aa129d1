// Tiles of codebook formats as wide ones of bytes. Counterparts: widen_simd.h, quant/iq2_xxs.h.
#include "kernels/widen_simd.h"

#include "kernels/block_dot.h"

namespace mlf::MLF_LEVEL {
namespace {

constexpr int64_t kAheadBytes = 4096;  // of tiles: a page

MLF_INLINE Bytes AsBytes(I32 v) {
  return Map<Bytes>([&](int p) { return (NativeU8)v.part[p]; });
}
MLF_INLINE I32 AsLanes(Bytes b) {
  return Map<I32>([&](int p) { return (NativeI32)b.part[p]; });
}
MLF_INLINE void Store(uint8_t* p, Bytes b) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i)
    std::memcpy(p + sizeof(NativeU8) * i, &b.part[i], sizeof(NativeU8));
}

/// Codes of the codebook for four indices of each row: codes 0 and 1 in the halves of of[0], 2 and
/// 3 in those of of[1].
struct Codes {
  I32 of[2];
};

#if defined(__AVX512F__)
/// 32 lookups in the 256 codes: in each quarter by six bits, then by the two above.
MLF_INLINE __m512i LookUp(__m512i index) {
  const auto quarter = [&](int q) MLF_TILE_LAMBDA {
    const uint16_t* codes = quant::Iq2XxsGrid() + 64 * q;
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(codes), index,
                                     _mm512_loadu_si512(codes + 32));
  };
  const __mmask32 odd = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64)),
                  upper = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
  return _mm512_mask_blend_epi16(upper, _mm512_mask_blend_epi16(odd, quarter(0), quarter(1)),
                                 _mm512_mask_blend_epi16(odd, quarter(2), quarter(3)));
}
MLF_INLINE Codes LoadCodes(const uint8_t* indices) {
  const __m512i four = _mm512_loadu_si512(indices), low = _mm512_set1_epi16(255);
  const __m512i even = LookUp(_mm512_and_si512(four, low)),
                odd = LookUp(_mm512_srli_epi16(four, 8));
  return {{{{(NativeI32)_mm512_mask_blend_epi16(0xAAAAAAAA, even, _mm512_slli_epi32(odd, 16))}},
           {{(NativeI32)_mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(even, 16), odd)}}}};
}
#else
MLF_INLINE Codes LoadCodes(const uint8_t* indices) {
  uint16_t codes[2][2 * kLanes];
  for (int r = 0; r < kLanes; ++r, indices += kLaneBytes) {
    codes[0][2 * r] = quant::Iq2XxsGrid()[indices[0]];
    codes[0][2 * r + 1] = quant::Iq2XxsGrid()[indices[1]];
    codes[1][2 * r] = quant::Iq2XxsGrid()[indices[2]];
    codes[1][2 * r + 1] = quant::Iq2XxsGrid()[indices[3]];
  }
  const auto load = [&](int i) MLF_TILE_LAMBDA {
    return AsLanes(Bytes::Load(reinterpret_cast<const uint8_t*>(codes[i])));
  };
  return {{load(0), load(1)}};
}
#endif

/// Eight signs of each of four eights in a byte each: seven bits stand in the words, the eighth
/// makes their number even.
MLF_INLINE Bytes LoadSigns(I32 words) {
  constexpr uint64_t kOddLow = 0x0080800080000080, kOddHigh = 0x8000008000808000;
  const Bytes seven = AsBytes((words & 0x7F) | (words << 1 & 0x7F00) | (words << 2 & 0x7F0000) |
                              (words << 3 & 0x7F000000));
  const Bytes low = (seven & 0x0F).Lookup(kOddLow, kOddHigh),
              high = (seven.ShiftRight(4) & 0x0F).Lookup(kOddLow, kOddHigh);
  return Map<Bytes>([&](int p) { return seven.part[p] | (low.part[p] ^ high.part[p]); });
}

/// Byte i of every lane in all four of its bytes.
MLF_INLINE Bytes SplatByte(Bytes b, int i) {
  const uint32_t first = static_cast<uint32_t>(i) * 0x01010101;
  const uint64_t low = (uint64_t{first + 0x04040404} << 32) | first;
  const Bytes order = Map<Bytes>([&](int) {
    typedef uint64_t Words __attribute__((vector_size(sizeof(NativeU8))));
    Words words{};
#pragma GCC unroll 8
    for (size_t w = 0; w < sizeof(NativeU8) / 8; ++w) words[w] = low + w % 2 * 0x0808080808080808;
    return (NativeU8)words;
  });
  return Map<Bytes>([&](int p) -> NativeU8 {
#if defined(__AVX512F__)
    return (NativeU8)_mm512_shuffle_epi8((__m512i)b.part[p], (__m512i)order.part[p]);
#elif defined(__AVX2__)
    return (NativeU8)_mm256_shuffle_epi8((__m256i)b.part[p], (__m256i)order.part[p]);
#elif defined(__x86_64__)
    return (NativeU8)_mm_shuffle_epi8((__m128i)b.part[p], (__m128i)order.part[p]);
#else
    return vqtbl1q_u8(b.part[p], order.part[p]);
#endif
  });
}

/// A line of ±value + 128 from the numbers of four values (0, 1 or 2 a byte) and their signs, of
/// which bytes 0 … 3 of a lane see bits first_sign … first_sign + 3.
MLF_INLINE Bytes SignedLine(I32 numbers, Bytes signs, int first_sign) {
  constexpr uint64_t kValues = (128 + 8) | (128 + 25) << 8 | (128 + 43) << 16;
  const Bytes values = AsBytes(numbers).Lookup(kValues, 0);
  return Map<Bytes>([&](int p) {
    const NativeU8 bits = (NativeU8)(NativeU32{} + (0x08040201u << first_sign));
    const NativeU8 minus = (NativeU8)((signs.part[p] & bits) != 0);
    return (values.part[p] ^ minus) - minus;  // 256 - (128 + value) where minus
  });
}

void Widen(const quant::IQ2_XXS*, uint8_t* wide, const uint8_t* tile) {
  using Wide = quant::IQ2_XXS::Wide;
  const F32 d = Lanes::Halves(tile);
  const uint8_t* indices = tile + kScaleBytes;
  for (int b = 0; b < quant::kSubBlocks; ++b, indices += 2 * kLineBytes, wide += kTileBytes<Wide>) {
    __builtin_prefetch(indices + kAheadBytes);
    __builtin_prefetch(indices + kAheadBytes + kLineBytes);
    const Codes codes = LoadCodes(indices);
    const I32 words = AsLanes(Bytes::Load(indices + kLineBytes));
    const Bytes signs = LoadSigns(words);
    const F32 scale = d * (Set(0.5f) + ToFloat(words >> 28)) * Set(0.25f);
    mlf::MLF_LEVEL::Store(reinterpret_cast<float*>(wide), scale);
#pragma GCC unroll 4
    for (int e = 0; e < 4; ++e) {
      const I32 pair = codes.of[e / 2], code = e % 2 == 0 ? pair & 0xFFFF : pair >> 16;
      const I32 both = code | code << 14;  // IQ2_XXS::Half
      const Bytes eight = SplatByte(signs, e);
      uint8_t* lines = wide + kLineBytes * (2 * e + 1);
      Store(lines, SignedLine(both & 0x03030303, eight, 0));
      Store(lines + kLineBytes, SignedLine(both >> 4 & 0x03030303, eight, 4));
    }
  }
}

}  // namespace

void WidenTiles(uint8_t* wide, const uint8_t* tile, int64_t tiles, Format format) {
  DispatchFormat(format, [&]<typename F>() {
    if constexpr (kIsWidened<F>) {
      for (int64_t t = 0; t < tiles; ++t, tile += kTileBytes<F>) {
        Widen(static_cast<const F*>(nullptr), wide, tile);
        wide += kTileBlocks<F> * kTileBytes<typename F::Wide>;
      }
    }
  });
}

}  // namespace mlf::MLF_LEVEL
