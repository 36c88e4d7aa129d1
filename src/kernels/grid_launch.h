// How many blocks a CUDA grid may have. Blocks loop over what is left. Counterpart:
// cuda_launch.cuh.
#pragma once
#include <algorithm>
#include <cstdint>

namespace mlf {

inline constexpr int64_t kMaxGrid = int64_t{1} << 30;  // along x, below CUDA's 2^31 - 1
inline constexpr int64_t kMaxGridY = 65535;            // along y or z

/// Blocks along x that take `per_block` of n things each: one at least where there is any, and
/// never more than a grid may have. No sum, which could overflow.
constexpr unsigned BlocksOf(int64_t n, int64_t per_block = 1) {
  return static_cast<unsigned>(std::min(kMaxGrid, n / per_block + (n % per_block == 0 ? 0 : 1)));
}

/// The same along y.
constexpr unsigned BlocksAlongY(int64_t n, int64_t per_block = 1) {
  return std::min(static_cast<unsigned>(kMaxGridY), BlocksOf(n, per_block));
}

}  // namespace mlf
