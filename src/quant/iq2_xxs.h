// IQ2_XXS: 256 weights in eights from a codebook of 256, with signs and 4-bit scales for 32. Listed
// in quant/format_list.h.
#pragma once
#include "quant/iq2_xxs_grid.h"
#include "quant/super_block.h"

namespace mlf::quant {

//   byte   0       2              6                      10
//          | f16 d | 4 × index    | scale, 4 × signs     | the same for the next 32 weights | …
//                    8 bits each    bits 31 … 28, then
//                                   7 bits each from the lowest on; the eighth makes their number
//                                   even
//
//   w = d * (scale + 1/2) / 4 * ±codebook[index][k % 8],  values 8, 25 and 43
//
//   bytes    32       64                64
//   tile     | 16 d   | 4 × index       | scale, signs    | the same for the next 32 weights | …
//                     | of row 0 … 15   | of row 0 … 15
//
// Products take no such tiles: widen_simd.cc makes wide ones of them, eight to a tile.
struct IQ2_XXS {
  static constexpr int32_t kGgufType = 16;
  static constexpr int64_t kWeights = kSuperBlock, kBytes = 66;
  static constexpr int kOffset = 128;  // of Four
  static constexpr bool kHasMin = false;
  static constexpr int kPlanes = 1, kSums = 1;

  //   bytes    64              512
  //   tile     | 16 f32 scales | eight lines, ±value + 128 |
  struct Wide {
    static constexpr int64_t kWeights = kQuantBlock, kBytes = 36;
    static constexpr int kMaxQuant = 255, kOffset = 128;
    static constexpr bool kHasMin = false;
    static constexpr int kPlanes = 1, kSums = 1, kLines = 8;

    template <typename Bytes>
    MLF_TILE_FN Bytes Line(const uint8_t* tile, int j) {
      return Bytes::Load(tile + kLineBytes * (j + 1));
    }
    template <typename Lanes>
    MLF_TILE_FN typename Lanes::Floats Scales(const uint8_t* tile) {
      return Lanes::Singles(tile);
    }
  };

  /// Bits of a code (iq2_xxs_grid.h) as four bytes: of values 0 … 3, or 4 … 7.
  MLF_TILE_FN uint32_t Half(uint32_t code, int half) {
    return (code | code << 14) >> (4 * half) & 0x03030303;
  }
  /// 0, 1 and 2 in each byte become 8, 25 and 43.
  MLF_TILE_FN uint32_t Values(uint32_t half) {
    return 0x08080808 + 17 * half + (half >> 1 & 0x01010101);
  }
  /// Eight signs of eight weights, the first in bit 0.
  MLF_TILE_FN uint32_t Signs(uint32_t word, int eight) {
    const uint32_t seven = word >> (7 * eight) & 127;
    uint32_t odd = seven ^ seven >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return seven | (odd & 1) << 7;
  }

  MLF_TILE_FN float ScaleOf(float d, uint32_t word) {
    return d * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
  }

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kSuperBlock, row += kBytes) {
      const float d = LoadHalf(row);
      for (int e = 0; e < kSuperBlock / 8; ++e, out += 8) {
        const uint8_t* block = row + 2 + e / 4 * 8;
        const uint32_t word = LoadWord(block + 4), signs = Signs(word, e % 4);
        const float scale = ScaleOf(d, word);
        uint8_t values[8];
        StoreWord(values, Values(Half(Iq2XxsGrid()[block[e % 4]], 0)));
        StoreWord(values + 4, Values(Half(Iq2XxsGrid()[block[e % 4]], 1)));
        for (int i = 0; i < 8; ++i) {
          const float w = scale * static_cast<float>(values[i]);
          out[i] = signs >> i & 1 ? -w : w;
        }
      }
    }
  }

  MLF_TILE_FN uint32_t Four(const uint8_t* block, int b, int j) {
    const uint8_t* at = block + 2 + 8 * b;
    const uint32_t values = Values(Half(Iq2XxsGrid()[at[j / 2]], j % 2)),
                   four = Signs(LoadWord(at + 4), j / 2) >> (j % 2 * 4) & 15,
                   minus = (four * 0x00204081 & 0x01010101) * 255;
    return 0x80808080 + (values & ~minus) - (values & minus);  // no byte carries
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int s) {
    return {ScaleOf(LoadHalf(block), LoadWord(block + 6 + 8 * s)), 0};
  }

  template <typename Lane>
  MLF_TILE_FN void Pack(const uint8_t* block, uint8_t* tile, Lane lane) {
    PackHalf(block, tile, lane);
    PackLines<2 * kSubBlocks>(block + 2, tile + kScaleBytes, lane);
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block);
    UnpackLines<2 * kSubBlocks>(tile + kScaleBytes, lane, block + 2);
  }
};

}  // namespace mlf::quant
