// Grids of kernels whose threads take elements of an array. Counterparts: cuda_elements.cuh,
// dequantize.cu.
#pragma once
#include "kernels/grid_launch.h"

namespace mlf {

inline constexpr int kElementThreads = 256;
inline constexpr int kElementVectors = 2;  // of a thread, all loaded before the first is used

/// Blocks for n elements in vectors of `lanes`, kElementVectors to a thread.
constexpr unsigned ElementBlocks(int64_t n, int lanes) {
  return BlocksOf(n, int64_t{lanes} * kElementThreads * kElementVectors);
}

}  // namespace mlf
