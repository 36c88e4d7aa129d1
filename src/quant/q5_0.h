// Q5_0: 32 weights of 5 bits around 16 and a scale. Listed in quant/format_list.h.
#pragma once
#include "quant/tile.h"

namespace mlf::quant {

//   byte   0       2            6                                         21
//          | f16 d | 32 bits h  | q16 : q0 | q17 : q1 | …         q31 : q15 |
//                    bit k: bit 4 of q_k;   high : low nibble     w = d * (q - 16)
struct Q5_0 {
  static constexpr int32_t kGgufType = 6;
  static constexpr int64_t kWeights = kQuantBlock, kBytes = 22;
  static constexpr int kMaxQuant = 31, kOffset = 16;
  static constexpr bool kHasMin = false;
  static constexpr int kPlanes = 1, kSums = 1, kLines = 4;

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kWeights, row += kBytes) {
      const float d = LoadHalf(row);
      const uint32_t high = LoadWord(row + 2);
      const uint8_t* q = row + 6;
      for (int i = 0; i < 16; ++i) {
        out[k + i] = d * static_cast<int>((q[i] & 15) + (high >> i & 1) * 16 - kOffset);
        out[k + 16 + i] = d * static_cast<int>((q[i] >> 4) + (high >> (16 + i) & 1) * 16 - kOffset);
      }
    }
  }
  template <typename Block>
  MLF_TILE_FN uint32_t Four(Block block, int, int j) {
    return FourNibbles(block + 6, j) | FourHighBits(block + 2, j);
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int) { return {LoadHalf(block), 0}; }

  template <typename Lane>
  MLF_TILE_FN void Pack(const uint8_t* block, uint8_t* tile, Lane lane) {
    PackHalf(block, tile, lane);
    PackLines<kLines>(block + 6, tile + kScaleBytes, lane);
    PackHighBits(block + 2, tile + kScaleBytes + kLines * kLineBytes, lane);
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block);
    UnpackLines<kLines>(tile + kScaleBytes, lane, block + 6);
    UnpackHighBits(tile + kScaleBytes + kLines * kLineBytes, lane, block + 2);
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* tile, int j) {
    return NibbleLine<Bytes>(tile + kScaleBytes, j) |
           HighBitLine<Bytes>(tile + kScaleBytes + kLines * kLineBytes, j);
  }
};

}  // namespace mlf::quant
