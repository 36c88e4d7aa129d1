// Q3_K: 256 weights of 3 bits around 4 in blocks of 16 with 6-bit scales. Listed in
// quant/format_list.h.
#pragma once
#include "quant/super_block.h"

namespace mlf::quant {

//   byte   0                 32                      96                      108     109
//          | h0 | … | h31    | q96 q64 q32 q0 | …    | 16 scales s of 6 bits | f16 d |
//            bit b of h_i:     bits 1 … 0;             s_8 : s_0 | … | s_15 : s_7 (bits 3 … 0),
//            bit 2 of          the second 128          then bits 5 … 4 of s_i, s_i+4, s_i+8, s_i+12
//            q_(32b + i)       weights follow          from the lowest bits of a byte on
//
//   w = (d * (s_b - 32)) * (q - 4),  b = k / 16
//
//   bytes    32       192
//   head     | 16 d   | pairs s_2b, s_(2b + 1) (super_block.h) |
//
// A block has three lines for eight times four weights: lines 0 … 2 hold theirs in bits 2 … 0 and
// weights 3 … 5 in bits 5 … 3; bits 7 … 6 of lines 0 and 1 are bits 1 … 0 of weights 6 and 7, and
// bits 6 and 7 of line 2 are their bits 2.
struct Q3_K : SuperBlock<Q3_K> {
  static constexpr int32_t kGgufType = 11;
  static constexpr int64_t kBytes = 110;
  static constexpr int kMaxQuant = 7, kOffset = 4;
  static constexpr bool kHasMin = false;
  static constexpr int kSums = 2, kLines = 3;
  static constexpr int kScales = 96, kD = 108, kScaleOffset = 32;
  static constexpr int kHeadBytes = kScaleBytes + kPairBytes;

  template <typename Block>
  MLF_TILE_FN auto Four(Block block, int b, int j) {
    return TakeBits(block + 32 + b / 4 * 32 + 4 * j, b % 4 * 2, 3) | TakeBits(block + 4 * j, b, 1)
                                                                         << 2;
  }
  MLF_TILE_FN void PutFour(uint8_t* block, int b, int j, uint32_t q) {
    PutBits(block + 32 + b / 4 * 32 + 4 * j, b % 4 * 2, q & 0x03030303);
    PutBits(block + 4 * j, b, q >> 2 & 0x01010101);
  }
  MLF_TILE_FN int TakeScale(const uint8_t* scales, int s) {
    return (scales[s % 8] >> (s / 8 * 4) & 15) | (scales[8 + s % 4] >> (s / 4 * 2) & 3) << 4;
  }
  MLF_TILE_FN void PutScale(uint8_t* scales, int s, int value) {
    scales[s % 8] = static_cast<uint8_t>(scales[s % 8] | (value & 15) << (s / 8 * 4));
    scales[8 + s % 4] = static_cast<uint8_t>(scales[8 + s % 4] | (value >> 4) << (s / 4 * 2));
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int s) {
    const int scale = TakeScale(block + kScales, s) - kScaleOffset;
    return {LoadHalf(block + kD) * static_cast<float>(scale), 0};
  }

  MLF_TILE_FN void PackHead(const uint8_t* block, uint8_t* tile, int lane) {
    PackHalf(block + kD, tile, lane);
    for (int b = 0; b < kSubBlocks; ++b) {
      const Pair pair{TakeScale(block + kScales, 2 * b), TakeScale(block + kScales, 2 * b + 1)};
      PackPair(pair, tile + kScaleBytes, b, lane);
    }
  }
  MLF_TILE_FN void UnpackHead(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block + kD);
    for (int b = 0; b < kSubBlocks; ++b) {
      const Pair pair = UnpackPair(tile + kScaleBytes, b, lane);
      PutScale(block + kScales, 2 * b, pair.first);
      PutScale(block + kScales, 2 * b + 1, pair.second);
    }
  }
  template <typename Lanes>
  MLF_TILE_FN SubScales<typename Lanes::Floats, 2> Scales(const uint8_t* tile, int b) {
    const auto pair = LoadPair<Lanes>(tile + kScaleBytes, b);
    const auto d = Lanes::Halves(tile);
    return {{d * ToFloat(pair.first - kScaleOffset), d * ToFloat(pair.second - kScaleOffset)}, {}};
  }

  template <typename W>
  MLF_TILE_FN void PackWords(const W* w, uint8_t* line) {
    const W six = w[6], seven = w[7];
    StoreWord(line, w[0] | w[3] << 3 | (six & 0x03030303u) << 6);
    StoreWord(line + kLineBytes, w[1] | w[4] << 3 | (seven & 0x03030303u) << 6);
    StoreWord(line + 2 * kLineBytes,
              w[2] | w[5] << 3 | (six & 0x04040404u) << 4 | (seven & 0x04040404u) << 5);
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* lines, int j) {
    if (j < 3) return Bytes::Load(lines + kLineBytes * j) & 7;
    if (j < 6) return Bytes::Load(lines + kLineBytes * (j - 3)).ShiftRight(3) & 7;
    const Bytes low = Bytes::Load(lines + kLineBytes * (j - 6)).ShiftRight(6) & 3;
    return low | (Bytes::Load(lines + 2 * kLineBytes).ShiftRight(j - 2) & 4);
  }
};

}  // namespace mlf::quant
