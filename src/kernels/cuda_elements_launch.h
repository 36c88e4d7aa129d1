// Grids of kernels whose threads take elements of an array. Counterparts: cuda_elements.cuh,
// dequantize.cu.
#pragma once
#include <algorithm>
#include <cstdint>

namespace mlf {

inline constexpr int kElementThreads = 256;
inline constexpr int kElementVectors = 2;  // of a thread, all loaded before the first is used
inline constexpr int64_t kMaxBlocks = int64_t{1} << 30;  // below CUDA's 2^31 - 1; blocks loop

/// Blocks that take `per_block` of n things each: one at least where there is any, and never more
/// than a grid may have.
constexpr unsigned BlocksOf(int64_t n, int64_t per_block) {
  return static_cast<unsigned>(std::min(kMaxBlocks, (n + per_block - 1) / per_block));
}

/// The same for n elements in vectors of `lanes`, kElementVectors to a thread.
constexpr unsigned ElementBlocks(int64_t n, int lanes) {
  return BlocksOf(n, int64_t{lanes} * kElementThreads * kElementVectors);
}

}  // namespace mlf
