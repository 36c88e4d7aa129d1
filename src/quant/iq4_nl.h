// IQ4_NL: 32 weights of 4 bits that number 16 uneven steps, and a scale. Listed in
// quant/format_list.h.
#pragma once
#include "quant/tile.h"

namespace mlf::quant {

//   byte   0       2                                         17
//          | f16 d | q16 : q0 | q17 : q1 | …         q31 : q15 |     w = d * step[q]
//                    high : low nibble
//
// The tile is that of Q4_0; a line comes out of the table as step + 128.
struct IQ4_NL {
  static constexpr int32_t kGgufType = 20;
  static constexpr int64_t kWeights = kQuantBlock, kBytes = 18;
  static constexpr int kMaxQuant = 255, kOffset = 128;
  static constexpr bool kHasMin = false;
  static constexpr int kPlanes = 1, kSums = 1, kLines = 4;

  /// step + 128, from the lowest byte on: -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89
  /// 113.
  static constexpr uint64_t kLowSteps = 0x766A5D4F3F2D1801, kHighSteps = 0xF1D9C5B5A6998D81;
  MLF_TILE_FN float Step(int q) {
    return static_cast<float>(
        static_cast<int>((q < 8 ? kLowSteps : kHighSteps) >> (q % 8 * 8) & 255) - kOffset);
  }

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kWeights, row += kBytes) {
      const float d = LoadHalf(row);
      const uint8_t* q = row + 2;
      for (int i = 0; i < 16; ++i) {
        out[k + i] = d * Step(q[i] & 15);
        out[k + 16 + i] = d * Step(q[i] >> 4);
      }
    }
  }
  template <typename Block>
  MLF_TILE_FN uint32_t Four(Block block, int, int j) {
    return LookupFour(FourNibbles(block + 2, j), kLowSteps, kHighSteps);
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
    return NibbleLine<Bytes>(tile + kScaleBytes, j).Lookup(kLowSteps, kHighSteps);
  }
};

}  // namespace mlf::quant
