// Q2_K: 256 weights of 2 bits in blocks of 16 with 4-bit scales and minima. Listed in
// quant/format_list.h.
#pragma once
#include "quant/super_block.h"

namespace mlf::quant {

//   byte   0                       16                            80      82         83
//          | m0 : s0 | … | m15 : s15 | q96 q64 q32 q0 | …        | f16 d | f16 dmin |
//            high : low nibble         the second 128 weights follow the first in the same way
//
//   w = (d * s_b) * q - dmin * m_b,  b = k / 16
//
//   bytes    32       32         16 × 16
//   head     | 16 d   | 16 -dmin | 16 m0 : s0 | 16 m1 : s1 | …
//
// A block has two lines for eight times four weights: weight j of line 0 and weight 4 + j of line 1
// in bits 2j + 1 … 2j.
struct Q2_K : SuperBlock<Q2_K> {
  static constexpr int32_t kGgufType = 10;
  static constexpr int64_t kBytes = 84;
  static constexpr int kMaxQuant = 3, kOffset = 0;
  static constexpr bool kHasMin = true;
  static constexpr int kSums = 2, kLines = 2;
  static constexpr int kD = 80;
  static constexpr int kHeadBytes = 2 * kScaleBytes + 16 * kTileRows;

  template <typename Block>
  MLF_TILE_FN auto Four(Block block, int b, int j) {
    return TakeBits(block + 16 + b / 4 * 32 + 4 * j, b % 4 * 2, 3);
  }
  MLF_TILE_FN void PutFour(uint8_t* block, int b, int j, uint32_t q) {
    PutBits(block + 16 + b / 4 * 32 + 4 * j, b % 4 * 2, q);
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int s) {
    return {LoadHalf(block + kD) * static_cast<float>(block[s] & 15),
            LoadHalf(block + kD + 2) * static_cast<float>(block[s] >> 4)};
  }

  MLF_TILE_FN void PackHead(const uint8_t* block, uint8_t* tile, int lane) {
    const uint8_t minus[] = {block[kD + 2], static_cast<uint8_t>(block[kD + 3] ^ 0x80)};
    PackHalf(block + kD, tile, lane);
    PackHalf(minus, tile + kScaleBytes, lane);
    for (int s = 0; s < 16; ++s) tile[2 * kScaleBytes + kTileRows * s + lane] = block[s];
  }
  MLF_TILE_FN void UnpackHead(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block + kD);
    UnpackHalf(tile + kScaleBytes, lane, block + kD + 2);
    block[kD + 3] ^= 0x80;
    for (int s = 0; s < 16; ++s) block[s] = tile[2 * kScaleBytes + kTileRows * s + lane];
  }
  template <typename Lanes>
  MLF_TILE_FN SubScales<typename Lanes::Floats, 2> Scales(const uint8_t* tile, int b) {
    const uint8_t* s = tile + 2 * kScaleBytes + 2 * kTileRows * b;
    const auto d = Lanes::Halves(tile), minus = Lanes::Halves(tile + kScaleBytes);
    const auto first = Lanes::Unsigned(s), second = Lanes::Unsigned(s + kTileRows);
    return {{d * ToFloat(first & 15), d * ToFloat(second & 15)},
            {minus * ToFloat(first >> 4), minus * ToFloat(second >> 4)}};
  }

  template <typename W>
  MLF_TILE_FN void PackWords(const W* w, uint8_t* line) {
#pragma GCC unroll 2
    for (int h = 0; h < kLines; ++h, w += 4, line += kLineBytes) {
      StoreWord(line, w[0] | w[1] << 2 | w[2] << 4 | w[3] << 6);
    }
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* lines, int j) {
    return Bytes::Load(lines + kLineBytes * (j / 4)).ShiftRight(j % 4 * 2) & 3;
  }
};

}  // namespace mlf::quant
