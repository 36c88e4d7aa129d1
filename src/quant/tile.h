// The tiled weight layout, and what the block formats share of it. Light: *_simd.cc files include
// it, so every function here is inlined always and leaves no symbol.
#pragma once
#include <cstdint>
#include <cstring>

#include "base/half.h"

// The rows of a weight are cut into groups of 16; a group is a run of tiles along k, and lane r of
// every tile is row r of the group, so that SIMD lanes run over output rows. A tile takes exactly
// the bytes that its 16 rows take in the file; the last group is padded with zero bytes.
//
//   weight   | group 0: rows 0 … 15              | group 1: rows 16 … 31 | … | last group |
//   group    | tile 0 | tile 1 | tile 2 | …      |
//
// Block formats of 32 weights: a tile is 32 k (block b of each of the 16 rows). Those of 256:
// quant/super_block.h.
//
//   bytes    32                32 (with minima)  64        64       …       64 (with fifth bits)
//   tile     | 16 f16 scales | 16 f16 minima   | line 0 | line 1 | …      | high bits   |
//   line j   | row 0: 4 bytes | row 1: 4 bytes | … | row 15: 4 bytes |
//
//   8 bits: eight lines; byte i of a row in line j is k = 4j + i, plus 128 (unsigned).
//   4 bits: four lines; the low nibble of byte i in line j is k = 4j + i, the high one 4(j+4) + i.
//   5 bits: as 4 bits, and in the line of high bits, bit j of byte i is bit 4 of k = 4j + i.
//
// Four consecutive k of a row are thus four consecutive bytes of its lane, which is what
// instructions for dot products of bytes take.
//
// Float formats: a tile is one k: 16 values, one of each row.
//
// Formats that begin with their only scale may have Quants<Lanes>(block, half): 16 of the file's
// block less the offset, in lanes (kernels/block_dot.h), for DequantizeRow.
//
// Every block format decodes four weights at a time from any place of a block, which is what the
// threads of a GPU want: w = d * (q - kOffset) - m with
//
//   Four(block, b, j)         q of weights 4j … 4j + 3 of the b-th 32, a byte each
//   SubScaleOf(block, s)      d and m of the s-th 32 weights, or the s-th 16 (kSums = 2)
//
// CUDA kernels decode with the same functions (kernels/cuda_blocks.cuh): those that take a block of
// the file's layout are compiled for the device too.
#define MLF_TILE_FN MLF_HOST_DEVICE static inline __attribute__((always_inline))
#define MLF_TILE_METHOD MLF_HOST_DEVICE inline __attribute__((always_inline))
#define MLF_TILE_LAMBDA __attribute__((always_inline))
#ifdef __CUDACC__
#pragma nv_diag_suppress 1675  // it knows no "#pragma GCC unroll", and unrolls by itself
#endif

namespace mlf {

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kQuantBlock = 32;  // weights that one dot product of integers sums over
inline constexpr int kLineBytes = 64;
inline constexpr int kLaneBytes = 4;
inline constexpr int kScaleBytes = 2 * kTileRows;

namespace quant {

// Pack functions take one lane of a tile: its block and its number. kernels/pack_simd.cc has others
// of the same names that take all sixteen at once: the block of the first row, and a Lane of its
// own type.

MLF_TILE_FN void PackByte(const uint8_t* byte, uint8_t* tile, int lane) { tile[lane] = *byte; }

/// A two-byte scale or minimum.
MLF_TILE_FN void PackHalf(const uint8_t* half, uint8_t* tile, int lane) {
  std::memcpy(tile + 2 * lane, half, 2);
}
MLF_TILE_FN void UnpackHalf(const uint8_t* tile, int lane, uint8_t* half) {
  std::memcpy(half, tile + 2 * lane, 2);
}

MLF_TILE_FN float FloatOfBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

/// Four bytes from any place. A GPU copies what may be unaligned byte by byte; it is made of the
/// one or two aligned words instead that it lies in.
MLF_TILE_FN uint32_t LoadWord(const uint8_t* p) {
#ifdef __CUDA_ARCH__
  const unsigned rest = reinterpret_cast<uintptr_t>(p) % 4;
  const auto* words = reinterpret_cast<const uint32_t*>(p - rest);
  return __funnelshift_r(words[0], words[rest != 0], 8 * rest);
#else
  uint32_t word;
  std::memcpy(&word, p, 4);
  return word;
#endif
}

MLF_TILE_FN float LoadHalf(const uint8_t* half) {
#ifdef __CUDA_ARCH__
  if (reinterpret_cast<uintptr_t>(half) % 2 == 0) {
    return static_cast<float>(mlf::F16{*reinterpret_cast<const uint16_t*>(half)});
  }
  return static_cast<float>(mlf::F16{static_cast<uint16_t>(half[0] | half[1] << 8)});
#else
  mlf::F16 value;
  std::memcpy(&value, half, 2);
  return static_cast<float>(value);
#endif
}
MLF_TILE_FN void StoreWord(uint8_t* p, uint32_t word) { std::memcpy(p, &word, 4); }

/// Four bytes of a row per line, each exclusive-or'ed with `flip`. The nibbles of a file's block
/// (k and k + 16 share a byte) already stand as the lines want them.
template <int kLines>
MLF_TILE_FN void PackLines(const uint8_t* quants, uint8_t* lines, int lane, uint32_t flip = 0) {
#pragma GCC unroll 8
  for (int j = 0; j < kLines; ++j) {
    StoreWord(lines + kLineBytes * j + kLaneBytes * lane, LoadWord(quants + 4 * j) ^ flip);
  }
}
template <int kLines>
MLF_TILE_FN void UnpackLines(const uint8_t* lines, int lane, uint8_t* quants, uint32_t flip = 0) {
#pragma GCC unroll 8
  for (int j = 0; j < kLines; ++j) {
    StoreWord(quants + 4 * j, LoadWord(lines + kLineBytes * j + kLaneBytes * lane) ^ flip);
  }
}

/// Fifth bits: bit k of the file's 32-bit word becomes bit j of byte i, k = 4j + i. `W` is a word,
/// or the words of all lanes.
template <typename W>
MLF_TILE_FN W SpreadHighBits(W bits) {
  W spread{};
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    // The product puts bit i of a nibble at bit 8i (and others where the mask drops them).
    spread = spread | ((bits >> (4 * j) & 15u) * 0x00204081u & 0x01010101u) << j;
  }
  return spread;
}
MLF_TILE_FN void PackHighBits(const uint8_t* word, uint8_t* line, int lane) {
  StoreWord(line + kLaneBytes * lane, SpreadHighBits(LoadWord(word)));
}
MLF_TILE_FN void UnpackHighBits(const uint8_t* line, int lane, uint8_t* word) {
  const uint32_t spread = LoadWord(line + kLaneBytes * lane);
  uint32_t bits = 0;
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    // The product gathers bits 0, 8, 16 and 24 into bits 24 … 27.
    bits |= ((spread >> j & 0x01010101u) * 0x01020408u >> 24 & 15) << (4 * j);
  }
  StoreWord(word, bits);
}

/// What makes floats of a block's integers.
struct SubScale {
  float d, m;
};

/// Weights 4j … 4j + 3 of nibbles as the file has them: k and k + 16 share a byte.
template <typename Block>
MLF_TILE_FN uint32_t FourNibbles(Block quants, int j) {
  return LoadWord(quants + 4 * (j % 4)) >> (j / 4 * 4) & 0x0F0F0F0Fu;
}
/// Their fifth bits: bits 4j … 4j + 3 of the word, in place.
template <typename Block>
MLF_TILE_FN uint32_t FourHighBits(Block word, int j) {
  return ((LoadWord(word) >> (4 * j) & 15u) * 0x00204081u & 0x01010101u) << 4;
}

/// Bytes of the eight in `low` and `high`, chosen by the lowest three bits of each nibble.
MLF_TILE_FN uint32_t ChooseBytes(uint32_t low, uint32_t high, uint32_t nibbles) {
#ifdef __CUDA_ARCH__
  return __byte_perm(low, high, nibbles);
#else
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t chosen = 0;
  for (int i = 0; i < 4; ++i) {
    chosen |= static_cast<uint32_t>(bytes >> ((nibbles >> (4 * i)) % 8 * 8) & 255) << (8 * i);
  }
  return chosen;
#endif
}
/// Entry q of a table of 16 bytes for each byte q of `four`.
MLF_TILE_FN uint32_t LookupFour(uint32_t four, uint64_t low, uint64_t high) {
  const uint32_t pairs = (four | four >> 4) & 0x00FF00FF, nibbles = (pairs | pairs >> 8) & 0x7777,
                 upper = (four >> 3 & 0x01010101) * 255;
  const auto choose = [nibbles](uint64_t eight) {
    return ChooseBytes(static_cast<uint32_t>(eight), static_cast<uint32_t>(eight >> 32), nibbles);
  };
  return (choose(low) & ~upper) | (choose(high) & upper);
}

/// Four bytes of a row in a line, with the operations of `Bytes` below.
struct Word {
  uint32_t bits;

  static MLF_TILE_METHOD Word Load(const uint8_t* p) { return {LoadWord(p)}; }
  MLF_TILE_METHOD Word ShiftLeft(int n) const { return {bits << n}; }
  MLF_TILE_METHOD Word ShiftRight(int n) const { return {bits >> n}; }
};
MLF_TILE_FN Word operator&(Word a, uint8_t mask) { return {a.bits & mask * 0x01010101u}; }
MLF_TILE_FN Word operator|(Word a, Word b) { return {a.bits | b.bits}; }

// `Bytes` below is 64 bytes in the registers of a CPU level (kernels/block_dot.h): Load, & with a
// byte, |, and shifts of 16-bit lanes, whose strays a mask must drop.

/// Nibbles of k = 4j … 4j + 3 of all rows.
template <typename Bytes>
MLF_TILE_FN Bytes NibbleLine(const uint8_t* lines, int j) {
  const Bytes both = Bytes::Load(lines + kLineBytes * (j % 4));
  return (j < 4 ? both : both.ShiftRight(4)) & 0x0F;
}

/// Bit 4 of k = 4j … 4j + 3 of all rows, in place.
template <typename Bytes>
MLF_TILE_FN Bytes HighBitLine(const uint8_t* line, int j) {
  const Bytes bits = Bytes::Load(line);
  return (j < 4 ? bits.ShiftLeft(4 - j) : bits.ShiftRight(j - 4)) & 0x10;
}

}  // namespace quant
}  // namespace mlf
