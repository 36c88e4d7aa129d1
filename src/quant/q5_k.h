// Q5_K: 256 weights of 5 bits in blocks of 32 with 6-bit scales and minima. Listed in
// quant/format_list.h.
#pragma once
#include "quant/super_block.h"

namespace mlf::quant {

//   byte   0       2          4              16              48                              175
//          | f16 d | f16 dmin | 8 s, 8 m     | h0 | … | h31  | q32 : q0 | q33 : q1 | …       |
//                               super_block.h  bit b of h_i:   high : low nibble, as in Q4_K
//                                              bit 4 of q_(32b + i)
//
//   w = (d * s_b) * q - dmin * m_b,  b = k / 32
//
// In a tile, four lines of nibbles a block and one of fifth bits, as Q5_0 has them.
struct Q5_K : SuperBlock<Q5_K>, ScaleMinHead {
  static constexpr int32_t kGgufType = 13;
  static constexpr int64_t kBytes = 176;
  static constexpr int kMaxQuant = 31, kOffset = 0;
  static constexpr bool kHasMin = true;
  static constexpr int kSums = 1, kLines = 5;

  template <typename Block>
  MLF_TILE_FN auto Four(Block block, int b, int j) {
    return TakeBits(block + 48 + b / 2 * 32 + 4 * j, b % 2 * 4, 15) |
           TakeBits(block + 16 + 4 * j, b, 1) << 4;
  }
  MLF_TILE_FN void PutFour(uint8_t* block, int b, int j, uint32_t q) {
    PutBits(block + 48 + b / 2 * 32 + 4 * j, b % 2 * 4, q & 0x0F0F0F0F);
    PutBits(block + 16 + 4 * j, b, q >> 4 & 0x01010101);
  }

  template <typename W>
  MLF_TILE_FN void PackWords(const W* w, uint8_t* line) {
    PackNibbles(w, line);
    W high{};
#pragma GCC unroll 8
    for (int j = 0; j < kWords; ++j) high = high | (w[j] >> 4 & 0x01010101u) << j;
    StoreWord(line + 4 * kLineBytes, high);
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* lines, int j) {
    return NibbleLine<Bytes>(lines, j) | HighBitLine<Bytes>(lines + 4 * kLineBytes, j);
  }
};

}  // namespace mlf::quant
