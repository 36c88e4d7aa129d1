// Q6_K: 256 weights of 6 bits around 32 in blocks of 16 with 8-bit scales. Listed in
// quant/format_list.h.
#pragma once
#include "quant/super_block.h"

namespace mlf::quant {

//   byte   0                                 128                          192            208
//          | q64 : q0 | q65 : q1 | …         | q96 q64 q32 q0 | …         | s_0 | … s_15 | f16 d |
//            bits 3 … 0 in nibbles             bits 5 … 4, two a byte's
//
//   w = (d * s_b) * (q - 32),  b = k / 16, s signed; the second 128 weights follow the first in the
//   same way, in the second half of both fields
//
//   bytes    32       2 × 16              2 × 16
//   head     | 16 d   | 16 s_0, 16 s_1    | 16 s_2, 16 s_3 | …
//
// A block has six lines for eight times four weights: lines 0 … 5 hold theirs in bits 5 … 0, and
// weights 6 and 7 stand in bits 7 … 6 of lines 0 … 2 and 3 … 5, lowest bits first.
struct Q6_K : SuperBlock<Q6_K> {
  static constexpr int32_t kGgufType = 14;
  static constexpr int64_t kBytes = 210;
  static constexpr int kMaxQuant = 63, kOffset = 32;
  static constexpr bool kHasMin = false;
  static constexpr int kSums = 2, kLines = 6;
  static constexpr int kScales = 192, kD = 208;
  static constexpr int kHeadBytes = kScaleBytes + 16 * kTileRows;

  template <typename Block>
  MLF_TILE_FN auto Four(Block block, int b, int j) {
    return TakeBits(block + b / 4 * 64 + b % 2 * 32 + 4 * j, b / 2 % 2 * 4, 15) |
           TakeBits(block + 128 + b / 4 * 32 + 4 * j, b % 4 * 2, 3) << 4;
  }
  MLF_TILE_FN void PutFour(uint8_t* block, int b, int j, uint32_t q) {
    PutBits(block + b / 4 * 64 + b % 2 * 32 + 4 * j, b / 2 % 2 * 4, q & 0x0F0F0F0F);
    PutBits(block + 128 + b / 4 * 32 + 4 * j, b % 4 * 2, q >> 4 & 0x03030303);
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int s) {
    return {LoadHalf(block + kD) * static_cast<float>(static_cast<int8_t>(block[kScales + s])), 0};
  }

  MLF_TILE_FN void PackHead(const uint8_t* block, uint8_t* tile, int lane) {
    PackHalf(block + kD, tile, lane);
    for (int s = 0; s < 16; ++s) tile[kScaleBytes + kTileRows * s + lane] = block[kScales + s];
  }
  MLF_TILE_FN void UnpackHead(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block + kD);
    for (int s = 0; s < 16; ++s) block[kScales + s] = tile[kScaleBytes + kTileRows * s + lane];
  }
  template <typename Lanes>
  MLF_TILE_FN SubScales<typename Lanes::Floats, 2> Scales(const uint8_t* tile, int b) {
    const uint8_t* s = tile + kScaleBytes + 2 * kTileRows * b;
    const auto d = Lanes::Halves(tile);
    return {{d * ToFloat(Lanes::Signed(s)), d * ToFloat(Lanes::Signed(s + kTileRows))}, {}};
  }

  template <typename W>
  MLF_TILE_FN void PackWords(const W* w, uint8_t* line) {
#pragma GCC unroll 6
    for (int j = 0; j < kLines; ++j) {
      const W two = w[6 + j / 3] >> (j % 3 * 2) & 0x03030303u;
      StoreWord(line + kLineBytes * j, w[j] | two << 6);
    }
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* lines, int j) {
    if (j < 6) return Bytes::Load(lines + kLineBytes * j) & 0x3F;
    const uint8_t* three = lines + kLineBytes * (j - 6) * 3;
    // Shifts by 2 at a time keep two bits at the top of a byte inside of it.
    const Bytes low = (Bytes::Load(three) & 0xC0).ShiftRight(2),
                middle = Bytes::Load(three + kLineBytes) & 0xC0,
                high = Bytes::Load(three + 2 * kLineBytes) & 0xC0;
    return ((low | middle).ShiftRight(2) | high).ShiftRight(2);
  }
};

}  // namespace mlf::quant
