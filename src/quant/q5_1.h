// Q5_1: 32 weights of 5 bits, a scale and a minimum. Listed in quant/format_list.h.
#pragma once
#include "quant/tile.h"

namespace mlf::quant {

//   byte   0       2       4            8                                         23
//          | f16 d | f16 m | 32 bits h  | q16 : q0 | q17 : q1 | …         q31 : q15 |
//                            bit k: bit 4 of q_k;   high : low nibble     w = d * q + m
struct Q5_1 {
  static constexpr int32_t kGgufType = 7;
  static constexpr int64_t kWeights = kQuantBlock, kBytes = 24;
  static constexpr int kMaxQuant = 31, kOffset = 0;
  static constexpr bool kHasMin = true;
  static constexpr int kPlanes = 2, kSums = 1, kLines = 4;

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kWeights, row += kBytes) {
      const float d = LoadHalf(row), m = LoadHalf(row + 2);
      const uint32_t high = LoadWord(row + 4);
      const uint8_t* q = row + 8;
      for (int i = 0; i < 16; ++i) {
        out[k + i] = d * static_cast<int>((q[i] & 15) + (high >> i & 1) * 16) + m;
        out[k + 16 + i] = d * static_cast<int>((q[i] >> 4) + (high >> (16 + i) & 1) * 16) + m;
      }
    }
  }
  template <typename Block>
  MLF_TILE_FN uint32_t Four(Block block, int, int j) {
    return FourNibbles(block + 8, j) | FourHighBits(block + 4, j);
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int) {
    return {LoadHalf(block), -LoadHalf(block + 2)};
  }

  template <typename Lane>
  MLF_TILE_FN void Pack(const uint8_t* block, uint8_t* tile, Lane lane) {
    PackHalf(block, tile, lane);
    PackHalf(block + 2, tile + kScaleBytes, lane);
    PackLines<kLines>(block + 8, tile + 2 * kScaleBytes, lane);
    PackHighBits(block + 4, tile + 2 * kScaleBytes + kLines * kLineBytes, lane);
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block);
    UnpackHalf(tile + kScaleBytes, lane, block + 2);
    UnpackLines<kLines>(tile + 2 * kScaleBytes, lane, block + 8);
    UnpackHighBits(tile + 2 * kScaleBytes + kLines * kLineBytes, lane, block + 4);
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* tile, int j) {
    return NibbleLine<Bytes>(tile + 2 * kScaleBytes, j) |
           HighBitLine<Bytes>(tile + 2 * kScaleBytes + kLines * kLineBytes, j);
  }
};

}  // namespace mlf::quant
