// Q4_1: 32 weights of 4 bits, a scale and a minimum. Listed in quant/format_list.h.
#pragma once
#include "quant/tile.h"

namespace mlf::quant {

//   byte   0       2       4                                         19
//          | f16 d | f16 m | q16 : q0 | q17 : q1 | …         q31 : q15 |     w = d * q + m
//                            high : low nibble
struct Q4_1 {
  static constexpr int32_t kGgufType = 3;
  static constexpr int64_t kWeights = kQuantBlock, kBytes = 20;
  static constexpr int kMaxQuant = 15, kOffset = 0;
  static constexpr bool kHasMin = true;
  static constexpr int kPlanes = 2, kSums = 1, kLines = 4;

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kWeights, row += kBytes) {
      const float d = LoadHalf(row), m = LoadHalf(row + 2);
      const uint8_t* q = row + 4;
      for (int i = 0; i < 16; ++i) {
        out[k + i] = d * (q[i] & 15) + m;
        out[k + 16 + i] = d * (q[i] >> 4) + m;
      }
    }
  }
  template <typename Block>
  MLF_TILE_FN uint32_t Four(Block block, int, int j) {
    return FourNibbles(block + 4, j);
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int) {
    return {LoadHalf(block), -LoadHalf(block + 2)};
  }

  template <typename Lane>
  MLF_TILE_FN void Pack(const uint8_t* block, uint8_t* tile, Lane lane) {
    PackHalf(block, tile, lane);
    PackHalf(block + 2, tile + kScaleBytes, lane);
    PackLines<kLines>(block + 4, tile + 2 * kScaleBytes, lane);
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block);
    UnpackHalf(tile + kScaleBytes, lane, block + 2);
    UnpackLines<kLines>(tile + 2 * kScaleBytes, lane, block + 4);
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* tile, int j) {
    return NibbleLine<Bytes>(tile + 2 * kScaleBytes, j);
  }
};

}  // namespace mlf::quant
