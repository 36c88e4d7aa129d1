// Q8_0: 32 weights as signed bytes and a scale. Listed in quant/format_list.h.
#pragma once
#include "quant/tile.h"

namespace mlf::quant {

//   byte   0       2                         33
//          | f16 d | q0 | q1 | …           q31 |     w = d * q, q in [-128, 127]
struct Q8_0 {
  static constexpr int32_t kGgufType = 8;
  static constexpr int64_t kWeights = kQuantBlock, kBytes = 34;
  static constexpr int kMaxQuant = 255, kOffset = 128;  // in a tile: q + 128
  static constexpr bool kHasMin = false;
  static constexpr int kPlanes = 1, kSums = 1, kLines = 8;
  static constexpr uint32_t kFlip = 0x80808080;

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kWeights, row += kBytes) {
      const float d = LoadHalf(row);
      for (int i = 0; i < kWeights; ++i) out[k + i] = static_cast<int8_t>(row[2 + i]) * d;
    }
  }
  template <typename Lanes>
  MLF_TILE_FN typename Lanes::Ints Quants(const uint8_t* block, int half) {
    return Lanes::Signed(block + 2 + half * kQuantBlock / 2);
  }
  template <typename Block>
  MLF_TILE_FN uint32_t Four(Block block, int, int j) {
    return LoadWord(block + 2 + 4 * j) ^ kFlip;
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int) { return {LoadHalf(block), 0}; }

  template <typename Lane>
  MLF_TILE_FN void Pack(const uint8_t* block, uint8_t* tile, Lane lane) {
    PackHalf(block, tile, lane);
    PackLines<kLines>(block + 2, tile + kScaleBytes, lane, kFlip);
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block);
    UnpackLines<kLines>(tile + kScaleBytes, lane, block + 2, kFlip);
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* tile, int j) {
    return Bytes::Load(tile + kScaleBytes + kLineBytes * j);
  }
};

}  // namespace mlf::quant
