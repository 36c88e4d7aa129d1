// MXFP4: 32 weights as floats of 4 bits (e2m1) and a power of two, as the OCP Microscaling formats
// have them. Listed in quant/format_list.h.
#pragma once
#include "quant/tile.h"

namespace mlf::quant {

//   byte   0      1                                         16
//          | e8m0 | q16 : q0 | q17 : q1 | …         q31 : q15 |     w = 2^(e - 128) * twice[q]
//                   high : low nibble
//
// twice[q] is 2 * e2m1: 0 1 2 3 4 6 8 12, and the same negated. A tile is 16 bytes e and four lines
// as in Q4_0; a line comes out of the table as twice + 12.
struct MXFP4 {
  static constexpr int32_t kGgufType = 39;
  static constexpr int64_t kWeights = kQuantBlock, kBytes = 17;
  static constexpr int kMaxQuant = 24, kOffset = 12;
  static constexpr bool kHasMin = false;
  static constexpr int kPlanes = 1, kSums = 1, kLines = 4;

  static constexpr uint64_t kLowSteps = 0x1814'1210'0F0E'0D0C, kHighSteps = 0x0004'0608'090A'0B0C;
  MLF_TILE_FN float Step(int q) {
    return static_cast<float>(
        static_cast<int>((q < 8 ? kLowSteps : kHighSteps) >> (q % 8 * 8) & 255) - kOffset);
  }

  MLF_TILE_FN float Scale(uint8_t e) {  // subnormal below 2
    return FloatOfBits(e < 2 ? (uint32_t{e} + 1) << 21 : (uint32_t{e} - 1) << 23);
  }

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kWeights, row += kBytes) {
      const float d = Scale(row[0]);
      const uint8_t* q = row + 1;
      for (int i = 0; i < 16; ++i) {
        out[k + i] = d * Step(q[i] & 15);
        out[k + 16 + i] = d * Step(q[i] >> 4);
      }
    }
  }
  template <typename Block>
  MLF_TILE_FN uint32_t Four(Block block, int, int j) {
    return LookupFour(FourNibbles(block + 1, j), kLowSteps, kHighSteps);
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int) { return {Scale(block[0]), 0}; }

  template <typename Lane>
  MLF_TILE_FN void Pack(const uint8_t* block, uint8_t* tile, Lane lane) {
    PackByte(block, tile, lane);
    PackLines<kLines>(block + 1, tile + kTileRows, lane);
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* block) {
    block[0] = tile[lane];
    UnpackLines<kLines>(tile + kTileRows, lane, block + 1);
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* tile, int j) {
    return NibbleLine<Bytes>(tile + kTileRows, j).Lookup(kLowSteps, kHighSteps);
  }
  template <typename Lanes>
  MLF_TILE_FN typename Lanes::Floats Scales(const uint8_t* tile) {
    const auto e = Lanes::Unsigned(tile);
    return BitsToFloat(WhereBelow(e, 2, (e + 1) << 21, (e - 1) << 23));
  }
};

}  // namespace mlf::quant
