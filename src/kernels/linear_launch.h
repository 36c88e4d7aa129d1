// How the CUDA kernels of linear cut their work: which kernel, grids, chunks and shared memory.
// Plain arithmetic, so that tests need no GPU. Counterparts: linear*.cu.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/grid_launch.h"
#include "kernels/shared_memory.h"
#include "quant/format_list.h"

namespace mlf::cuda_linear {

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline constexpr int kWord = 16;  // bytes of one copy

// ---- raw rows in shared memory ------------------------------------------------------------------

// Rows of blocks are copied as the aligned 16-byte words that they lie in, to the same place within
// the words of shared memory. An odd number of words for each row lets eight rows be read at once
// without bank conflicts.

/// Bytes of `weights` weights of a row.
template <typename F>
MLF_HOST_DEVICE constexpr int ChunkBytes(int weights) {
  return static_cast<int>(weights / F::kWeights * F::kBytes);
}
/// Words that so many bytes may lie in, wherever they begin.
MLF_HOST_DEVICE constexpr int WordsOf(int bytes) { return (bytes + 2 * (kWord - 1)) / kWord; }
/// Bytes from row to row in shared memory.
MLF_HOST_DEVICE constexpr int RowStride(int bytes) { return (WordsOf(bytes) | 1) * kWord; }

// ---- a few tokens of a block format -------------------------------------------------------------

// Up to this many tokens the weights are read once for every kFewAtOnce tokens; above it tiles of
// tokens pay. By arithmetic, not measured: a pass takes the time of the weights' bytes, a tile
// that of 128 tokens, on a quarter of the multiprocessors where rows are 4096.
inline constexpr int64_t kFewTokens = 32;
inline constexpr int kFewAtOnce = 8;

inline constexpr int kFewWarps = 8;    // of a block; they share k
inline constexpr int kFewRows = 16;    // of the weight, of a block: those of one mma
inline constexpr int kFewChunk = 256;  // weights of a row that a warp takes at once
inline constexpr int kFewStages = 2;
inline constexpr int kFewBlocksAtOnce = 2;  // on a multiprocessor, as __launch_bounds__ has it
inline constexpr int kTokensOfMma = 4;  // eight columns: an upper and a lower part of each token

/// Shared memory of one warp, in bytes from its beginning, and of the block behind its warps.
struct FewShared {
  int x;        // [blocks of 32, 2 * tokens, 4 lanes, 16 bytes]
  int scales;   // [parts, 16 rows] float d, then m
  int sums;     // [parts, tokens] float, of x
  int warp;     // bytes of a warp
  int64_t all;  // bytes of the block
};

template <typename F>
constexpr FewShared FewSharedOf(int tokens) {
  constexpr int kFloat = 4, kBlocks = kFewChunk / static_cast<int>(kQuantBlock);
  constexpr int kParts = kBlocks * F::kSums;
  constexpr int kRing = kFewStages * kFewRows * RowStride(ChunkBytes<F>(kFewChunk));
  FewShared s{};
  s.x = kRing;
  s.scales = s.x + kBlocks * 2 * tokens * 4 * kWord;
  s.sums = s.scales + kParts * kFewRows * kFloat * (F::kHasMin ? 2 : 1);
  s.warp = s.sums + (F::kHasMin ? kParts * tokens * kFloat : 0);
  s.warp = (s.warp + kWord - 1) / kWord * kWord;
  // Sums of the warps, of two groups of rows in turn.
  s.all = int64_t{kFewWarps} * s.warp + 2 * kFewWarps * kFewRows * tokens * kFloat;
  return s;
}

/// Tokens of one pass: kFewAtOnce, or fewer where a block may have little shared memory.
template <typename F>
constexpr int FewTokensAtOnce(int64_t tokens, int capability) {
  int n = static_cast<int>(std::min<int64_t>(tokens, kFewAtOnce));
  while (n > 1 && FewSharedOf<F>(n).all > SharedBytesOfBlock(capability)) --n;
  return n;
}

/// Blocks of a pass: they take groups of rows in turn, and copy ahead from one to the next. No more
/// than run at once: a block that began when others have ended would run with half a multiprocessor
/// idle.
constexpr int64_t FewBlocks(int64_t rows, int64_t shared, int capability, int multiprocessors) {
  return std::min(CeilDiv(rows, kFewRows),
                  multiprocessors * BlocksAtOnce(shared, kFewBlocksAtOnce, capability));
}

// ---- many tokens of a block format --------------------------------------------------------------

inline constexpr int kTileOutputs = 128;                   // of a block: rows of the weight
inline constexpr int kWarpTokens = 64, kWarpOutputs = 64;  // of a warp

// By arithmetic, not measured, for 9.0, where a multiprocessor begins one mma of 16 x 8 x 16 a
// clock (with mma.sync about 0.62) and shared memory gives 128 bytes:
//   A warp's tile of 64 x 64 loads 8 x 512 bytes for 32 mma, as many clocks of shared memory as of
//   tensor cores; 64 x 32 would take 24 for 16. Its 128 sums leave room for the next fragments in
//   255 registers, so that 8 warps run on a multiprocessor.
//   A step of wide tiles is 1024 mma: 1650 clocks. Shared memory takes about 1600, 1024 for
//   fragments, 256 + 128 to write tiles, the rest for raw rows. 40 KiB come from the L2, 24 bytes a
//   clock; a weight is decoded once for 256 tokens, 32 of them by each thread: about 300 of 1650
//   instructions that a scheduler may issue.
//   Narrow tiles are for few tokens, for products of fewer wide tiles than multiprocessors, and for
//   small shared memory; two blocks of 4 warps run at once.
template <int tokens, int k>
struct TileShape {
  static constexpr int kTokens = tokens;
  static constexpr int kK = k;                          // of a step
  static constexpr int kRowWords = kK * 2 / kWord;      // of a row of bfloat16
  static constexpr int kParts = kK / int{kQuantBlock};  // threads that decode a row
  static constexpr int kThreads = kTileOutputs * kParts;
  static constexpr int kXBytes = kTokens * kK * 2, kWeightBytes = kTileOutputs * kK * 2;
  static_assert(kThreads == 32 * (kTokens / kWarpTokens) * (kTileOutputs / kWarpOutputs));
};
using WideTiles = TileShape<256, 64>;
using NarrowTiles = TileShape<128, 32>;

/// Weights of a row that are copied at once: a super-block, or four blocks.
template <typename F>
MLF_HOST_DEVICE constexpr int TileChunk() {
  return F::kWeights > 128 ? static_cast<int>(F::kWeights) : 128;
}

template <typename F>
MLF_HOST_DEVICE constexpr int TileRawBytes() {
  return kTileOutputs * RowStride(ChunkBytes<F>(TileChunk<F>()));
}

/// The raw rows of two chunks, then as bfloat16 the weights of two steps and x of `stages`.
template <typename F, typename Shape>
constexpr int64_t TileSharedBytes(int stages) {
  return 2 * (TileRawBytes<F>() + Shape::kWeightBytes) + int64_t{stages} * Shape::kXBytes;
}

/// Steps that x is there for or on its way: 3 of wide tiles where they fit; 0 where 2 do not.
template <typename F, typename Shape>
constexpr int TileStages(int capability) {
  const auto fits = [&](int n) {
    return TileSharedBytes<F, Shape>(n) <= SharedBytesOfBlock(capability);
  };
  if (Shape::kTokens > NarrowTiles::kTokens && fits(3)) return 3;
  return fits(2) ? 2 : 0;
}

/// Whether wide tiles occupy all multiprocessors; outputs are the same bits either way.
template <typename F>
constexpr bool TakesWideTiles(int64_t tokens, int64_t rows, int capability, int multiprocessors) {
  return TileStages<F, WideTiles>(capability) > 0 && tokens > NarrowTiles::kTokens &&
         CeilDiv(tokens, WideTiles::kTokens) * CeilDiv(rows, kTileOutputs) >= multiprocessors;
}

/// Tiles in the order of blocks: kTileBand tiles of tokens by all tiles of outputs, so that blocks
/// which run together share weights and activations in the second-level cache.
inline constexpr int64_t kTileBand = 8;
struct TileAt {
  int64_t tokens, outputs;  // numbers of tiles
};
MLF_HOST_DEVICE constexpr TileAt TileOfBlock(int64_t block, int64_t token_tiles,
                                             int64_t output_tiles) {
  const int64_t band = block / (kTileBand * output_tiles), first = band * kTileBand;
  const int64_t left = token_tiles - first, width = left < kTileBand ? left : kTileBand;
  const int64_t at = block - first * output_tiles;
  return {first + at % width, at / width};
}

// ---- floats -------------------------------------------------------------------------------------

inline constexpr int kFloatWarps = 4;       // of a block
inline constexpr int kFloatRows = 2;        // of the weight, of a warp
inline constexpr int64_t kFloatTokens = 8;  // more go to cuBLASLt, where it takes their types

/// Tokens that a warp of the float kernel takes at once: as many as there are sizes of it.
constexpr int FloatTokensAtOnce(int64_t tokens) { return tokens == 1 ? 1 : tokens <= 4 ? 4 : 8; }

constexpr int64_t FloatBlocks(int64_t rows) { return CeilDiv(rows, kFloatWarps * kFloatRows); }

/// Blocks over tokens; they take what is more in turn.
constexpr int64_t FloatPasses(int64_t tokens, int at_once) {
  return std::min(CeilDiv(tokens, at_once), kMaxGridY);
}

}  // namespace mlf::cuda_linear
