// Grids of kv_append.cu.
#pragma once
#include "kernels/cuda_elements_launch.h"

namespace mlf {

inline constexpr int kAppendTokens = 32;  // of a block: a page's, a lane each

/// Along x; heads lie along y.
constexpr unsigned AppendBlocks(int64_t tokens) { return BlocksOf(tokens, kAppendTokens); }
constexpr unsigned AppendHeadBlocks(int64_t heads) { return BlocksAlongY(heads); }

/// A warp to a head of an entry.
constexpr unsigned RotateBlocks(int64_t entries, int64_t heads) {
  return BlocksOf(entries * heads, kElementThreads / 32);
}

/// A thread to a word of a page.
constexpr unsigned CopyPageBlocks(int64_t words) { return BlocksOf(words, kElementThreads); }

}  // namespace mlf
