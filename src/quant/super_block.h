// What formats of super-blocks share: 256 weights as eight blocks of 32. Tiles of other formats:
// tile.h. Light, like that.
#pragma once
#include "quant/tile.h"

// A tile is 256 k (a super-block of each of the 16 rows): a head with what the file keeps beside
// the weights, one value of each row side by side, then the lines (tile.h) of the eight blocks.
//
//   tile     | head: kHeadBytes | block 0: kLines lines | block 1 | … | block 7 |
//
// Each format draws its head and its lines. Weight k of a block is
//
//   w = d * (q - kOffset) - m       with the d and m of its block (kSums = 1), or of its half
//                                   block of 16 (kSums = 2), whose sums are then kept apart
//
// A format F has, beside what all block formats have,
//   Four(block, b, j)         also from the blocks of all lanes (PackWeights)
//   PutFour(block, b, j, q)   the inverse, into a block that was zero
//   PackHead, UnpackHead      the head of a tile, one lane
//   PackWords(w, line)        one lane of a block's lines from its eight words of four weights
//   Line<Bytes>(lines, j)     the inverse: weights 4j … 4j + 3 of all rows
//   Scales<Lanes>(tile, b)    d and -m of block b for all rows
namespace mlf::quant {

inline constexpr int64_t kSuperBlock = 256;
inline constexpr int kSubBlocks = kSuperBlock / kQuantBlock, kWords = kQuantBlock / 4;

/// SubScale of 16 rows; `m` is negated, and not there without minima.
template <typename Floats, int kSums>
struct SubScales {
  Floats d[kSums], m[kSums];
};

/// A bit field in each byte of four consecutive ones.
template <typename Block>
MLF_TILE_FN auto TakeBits(Block four, int shift, uint8_t mask) {
  return LoadWord(four) >> shift & mask * 0x01010101u;
}
MLF_TILE_FN void PutBits(uint8_t* four, int shift, uint32_t bits) {
  StoreWord(four, LoadWord(four) | bits << shift);
}

/// What a format F gets from the functions above.
template <typename F>
struct SuperBlock {
  static constexpr int64_t kWeights = kSuperBlock;
  static constexpr int kPlanes = 1;

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    constexpr int kPart = kQuantBlock / F::kSums;
    for (int64_t k = 0; k < cols; k += kSuperBlock, row += F::kBytes) {
      for (int b = 0; b < kSubBlocks; ++b) {
        uint8_t q[kQuantBlock];
#pragma GCC unroll 8
        for (int j = 0; j < kWords; ++j) StoreWord(q + 4 * j, F::Four(row, b, j));
#pragma GCC unroll 2
        for (int h = 0; h < F::kSums; ++h) {
          const SubScale scale = F::SubScaleOf(row, b * F::kSums + h);
          float* to = out + k + b * kQuantBlock + h * kPart;
          for (int i = 0; i < kPart; ++i) {
            const float w = scale.d * static_cast<float>(q[h * kPart + i] - F::kOffset);
            to[i] = F::kHasMin ? w - scale.m : w;
          }
        }
      }
    }
  }

  MLF_TILE_FN void Pack(const uint8_t* block, uint8_t* tile, int lane) {
    F::PackHead(block, tile, lane);
    PackWeights(block, tile + F::kHeadBytes + kLaneBytes * lane);
  }
  /// Lines from the block of one lane, or from what stands for those of all.
  template <typename Block>
  MLF_TILE_FN void PackWeights(Block block, uint8_t* line) {
    for (int b = 0; b < kSubBlocks; ++b, line += F::kLines * kLineBytes) {
      decltype(LoadWord(block)) w[kWords];
#pragma GCC unroll 8
      for (int j = 0; j < kWords; ++j) w[j] = F::Four(block, b, j);
      F::PackWords(w, line);
    }
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* block) {
    std::memset(block, 0, F::kBytes);
    F::UnpackHead(tile, lane, block);
    const uint8_t* line = tile + F::kHeadBytes + kLaneBytes * lane;
    for (int b = 0; b < kSubBlocks; ++b, line += F::kLines * kLineBytes) {
#pragma GCC unroll 8
      for (int j = 0; j < kWords; ++j) {
        F::PutFour(block, b, j, F::template Line<Word>(line, j).bits);
      }
    }
  }
};

/// Four lines of nibbles, as the 4-bit formats of tile.h have them.
template <typename W>
MLF_TILE_FN void PackNibbles(const W* w, uint8_t* line) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    StoreWord(line + kLineBytes * j, (w[j] & 0x0F0F0F0Fu) | (w[j + 4] & 0x0F0F0F0Fu) << 4);
  }
}

// ---- pairs of 6-bit numbers ---------------------------------------------------------------------

// Two per block: a scale and a minimum, or two scales. 12 bytes of a row, in the tile
//
//   bytes    16       16             16         16                     16
//   head     | pair 0 | pair 1 | … | pair 7 |   | c4 : c0 | … | c7 : c3 |      one byte per row
//
//   pair b   bit 7 … 6        5 … 0             c_b: bits 3 … 0 of the second number
//            | second, 5 … 4 | first |
inline constexpr int kPairBytes = 12 * kTileRows;

struct Pair {
  int first, second;
};

MLF_TILE_FN void PackPair(Pair pair, uint8_t* pairs, int b, int lane) {
  pairs[kTileRows * b + lane] = static_cast<uint8_t>(pair.first | (pair.second >> 4) << 6);
  uint8_t& nibbles = pairs[kTileRows * (8 + b % 4) + lane];
  nibbles = static_cast<uint8_t>((b < 4 ? 0 : nibbles) | (pair.second & 15) << (b / 4 * 4));
}
MLF_TILE_FN Pair UnpackPair(const uint8_t* pairs, int b, int lane) {
  const int byte = pairs[kTileRows * b + lane], nibbles = pairs[kTileRows * (8 + b % 4) + lane];
  return {byte & 63, (byte >> 6) << 4 | (nibbles >> (b / 4 * 4) & 15)};
}

/// Pair b of all rows. `Lanes` makes 16 floats or 32-bit integers of bytes in a tile
/// (kernels/block_dot.h).
template <typename Lanes>
struct PairLanes {
  typename Lanes::Ints first, second;
};
template <typename Lanes>
MLF_TILE_FN PairLanes<Lanes> LoadPair(const uint8_t* pairs, int b) {
  const auto bytes = Lanes::Unsigned(pairs + kTileRows * b);
  const auto nibbles = Lanes::Unsigned(pairs + kTileRows * (8 + b % 4));
  return {bytes & 63, (bytes >> 2 & 0x30) | (nibbles >> (b / 4 * 4) & 15)};
}

// ---- scales and minima of Q4_K and Q5_K ---------------------------------------------------------

//   byte   0                                     11      of 6-bit scales s and minima m
//          | s_0 | … | s_3 | m_0 | … | m_3 | m4 : s4 | … | m7 : s7 |
//
// in bits 5 … 0 of a byte, or bits 3 … 0 in nibbles, with bits 5 … 4 in bits 7 … 6 of s_{b-4} and
// m_{b-4}.
MLF_TILE_FN Pair TakeScaleMin(const uint8_t* scales, int b) {
  if (b < 4) return {scales[b] & 63, scales[b + 4] & 63};
  return {(scales[b + 4] & 15) | (scales[b - 4] >> 6) << 4, (scales[b + 4] >> 4) | (scales[b] >> 6)
                                                                                       << 4};
}
/// Into bytes that were zero.
MLF_TILE_FN void PutScaleMin(uint8_t* scales, int b, Pair pair) {
  if (b < 4) {
    scales[b] = static_cast<uint8_t>(scales[b] | pair.first);
    scales[b + 4] = static_cast<uint8_t>(scales[b + 4] | pair.second);
  } else {
    scales[b + 4] = static_cast<uint8_t>((pair.first & 15) | (pair.second & 15) << 4);
    scales[b - 4] = static_cast<uint8_t>(scales[b - 4] | (pair.first >> 4) << 6);
    scales[b] = static_cast<uint8_t>(scales[b] | (pair.second >> 4) << 6);
  }
}

/// The heads of both: d, -dmin and the pairs.
//
//   bytes    32       32          192
//   head     | 16 d   | 16 -dmin | pairs |          d and dmin are float16
struct ScaleMinHead {
  static constexpr int kHeadBytes = 2 * kScaleBytes + kPairBytes;

  MLF_TILE_FN void PackHead(const uint8_t* block, uint8_t* tile, int lane) {
    const uint8_t minus[] = {block[2], static_cast<uint8_t>(block[3] ^ 0x80)};
    PackHalf(block, tile, lane);
    PackHalf(minus, tile + kScaleBytes, lane);
    for (int b = 0; b < kSubBlocks; ++b) {
      PackPair(TakeScaleMin(block + 4, b), tile + 2 * kScaleBytes, b, lane);
    }
  }
  MLF_TILE_FN void UnpackHead(const uint8_t* tile, int lane, uint8_t* block) {
    UnpackHalf(tile, lane, block);
    UnpackHalf(tile + kScaleBytes, lane, block + 2);
    block[3] ^= 0x80;
    for (int b = 0; b < kSubBlocks; ++b) {
      PutScaleMin(block + 4, b, UnpackPair(tile + 2 * kScaleBytes, b, lane));
    }
  }
  MLF_TILE_FN SubScale SubScaleOf(const uint8_t* block, int s) {
    const Pair pair = TakeScaleMin(block + 4, s);
    return {LoadHalf(block) * static_cast<float>(pair.first),
            LoadHalf(block + 2) * static_cast<float>(pair.second)};
  }
  template <typename Lanes>
  MLF_TILE_FN SubScales<typename Lanes::Floats, 1> Scales(const uint8_t* tile, int b) {
    const auto pair = LoadPair<Lanes>(tile + 2 * kScaleBytes, b);
    return {{Lanes::Halves(tile) * ToFloat(pair.first)},
            {Lanes::Halves(tile + kScaleBytes) * ToFloat(pair.second)}};
  }
};

}  // namespace mlf::quant
