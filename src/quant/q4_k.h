// Q4_K: 256 weights of 4 bits in blocks of 32 with 6-bit scales and minima. Listed in
// quant/format_list.h.
#pragma once
#include "quant/super_block.h"

namespace mlf::quant {

//   byte   0       2          4              16                                        143
//          | f16 d | f16 dmin | 8 s, 8 m     | q32 : q0 | q33 : q1 | … q63 : q31 | q96 : q64 | …
//                               super_block.h  high : low nibble
//
//   w = (d * s_b) * q - dmin * m_b,  b = k / 32
//
// In a tile, four lines a block, of nibbles as Q4_0 has them.
struct Q4_K : SuperBlock<Q4_K>, ScaleMinHead {
  static constexpr int32_t kGgufType = 12;
  static constexpr int64_t kBytes = 144;
  static constexpr int kMaxQuant = 15, kOffset = 0;
  static constexpr bool kHasMin = true;
  static constexpr int kSums = 1, kLines = 4;

  template <typename Block>
  MLF_TILE_FN auto Four(Block block, int b, int j) {
    return TakeBits(block + 16 + b / 2 * 32 + 4 * j, b % 2 * 4, 15);
  }
  MLF_TILE_FN void PutFour(uint8_t* block, int b, int j, uint32_t q) {
    PutBits(block + 16 + b / 2 * 32 + 4 * j, b % 2 * 4, q);
  }

  template <typename W>
  MLF_TILE_FN void PackWords(const W* w, uint8_t* line) {
    PackNibbles(w, line);
  }
  template <typename Bytes>
  MLF_TILE_FN Bytes Line(const uint8_t* lines, int j) {
    return NibbleLine<Bytes>(lines, j);
  }
};

}  // namespace mlf::quant
