// Grids of embedding_lookup.cu: rows along x, pieces of a row along y.
#pragma once
#include "kernels/grid_launch.h"

namespace mlf {

inline constexpr int kLookupThreads = 256;
inline constexpr int kTiledLookupThreads = 64;  // a block of 210 bytes each is 13 KiB

/// Blocks for the things of a row, one to a thread.
constexpr unsigned LookupBlocksOfRow(int64_t things, int threads) {
  return BlocksAlongY(things, threads);
}

}  // namespace mlf
