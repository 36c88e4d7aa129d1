// Grids of embedding_lookup.cu: rows along x, pieces of a row along y.
#pragma once
#include <algorithm>
#include <cstdint>

namespace mlf {

inline constexpr int kLookupThreads = 256;
inline constexpr int kTiledLookupThreads = 64;     // a block of 210 bytes each is 13 KiB
inline constexpr int64_t kMaxBlocksOfRow = 65535;  // of a grid along y; blocks loop

/// Blocks for the things of a row, one to a thread.
constexpr unsigned LookupBlocksOfRow(int64_t things, int threads) {
  return static_cast<unsigned>(std::min(kMaxBlocksOfRow, (things + threads - 1) / threads));
}

}  // namespace mlf
