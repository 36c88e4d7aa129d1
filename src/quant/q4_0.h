// Q4_0: 32 weights of 4 bits around 8 and a scale. Listed in quant/format_list.h.
#pragma once
#include "quant/tile.h"

namespace mlf::quant {

//   byte   0       2                                         17
//          | f16 d | q16 : q0 | q17 : q1 | …         q31 : q15 |     w = d * (q - 8)
//                    high : low nibble
struct Q4_0 {
  static constexpr int32_t kGgufType = 2;
  static constexpr int64_t kWeights = kQuantBlock, kBytes = 18;
  static constexpr int kMaxQuant = 15, kOffset = 8;
  static constexpr bool kHasMin = false;
  static constexpr int kPlanes = 1, kSums = 1, kLines = 4;

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kWeights, row += kBytes) {
      const float d = LoadHalf(row);
      const uint8_t* q = row + 2;
      for (int i = 0; i < 16; ++i) {
        out[k + i] = d * ((q[i] & 15) - kOffset);
        out[k + 16 + i] = d * ((q[i] >> 4) - kOffset);
      }
    }
  }
  template <typename Lanes>
  MLF_TILE_FN typename Lanes::Ints Quants(const uint8_t* block, int half) {
    const auto both = Lanes::Unsigned(block + 2);
    return (half == 0 ? both & 15 : both >> 4) - kOffset;
  }
  template <typename Block>
  MLF_TILE_FN uint32_t Four(Block block, int, int j) {
    return FourNibbles(block + 2, j);
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int) { return {LoadHalf(block), 0}; }

  template <typename Lane>
  MLF_TILE_FN void Pack(const uint8_t* block, uint8_t* tile, Lane lane) {
    PackHalf(block, tile, lane);
    PackLines<kLines>(block + 2, tile + kScaleBytes, lane);
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block);
    UnpackLines<kLines>(tile + kScaleBytes, lane, block + 2);
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* tile, int j) {
    return NibbleLine<Bytes>(tile + kScaleBytes, j);
  }
};

}  // namespace mlf::quant
