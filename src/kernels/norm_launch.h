// How rows are dealt to the blocks of the CUDA norms. Counterpart: norm.cu.
#pragma once
#include "kernels/grid_launch.h"

namespace mlf {

// A row stays in registers from its sum to its scaling: threads * kNormHeld vectors, 16 KiB per row
// at 256 threads; what is longer is read again.
inline constexpr int kNormHeld = 4;
inline constexpr int kNormThreads = 256;

/// Threads that share a row of n vectors: a warp where its registers hold all of it, else a block.
constexpr int NormThreadsOfRow(int64_t n) { return n <= 32 * kNormHeld ? 32 : kNormThreads; }

/// Blocks for rows of n vectors.
constexpr unsigned NormBlocks(int64_t rows, int64_t n) {
  return BlocksOf(rows, kNormThreads / NormThreadsOfRow(n));
}

}  // namespace mlf
