// Shared memory of CUDA devices, by compute capability. Counterparts: *_launch.h, which cut work by
// it.
#pragma once
#include <algorithm>
#include <cstdint>

namespace mlf {

/// What one block may have (CUDA C++ Programming Guide, table of technical specifications); what is
/// not known has the least of them.
constexpr int64_t SharedBytesOfBlock(int compute_capability) {
  switch (compute_capability) {
    case 80:
    case 87:
      return 163 << 10;
    case 90:
    case 100:
    case 101:
    case 103:
    case 110:
      return 227 << 10;
    default:
      return 99 << 10;
  }
}

/// Blocks of `shared_bytes` each, `most` by other means, that run at once on a multiprocessor: it
/// has 1 KiB of shared memory more than a block may have, and takes as much of it for each.
constexpr int64_t BlocksAtOnce(int64_t shared_bytes, int64_t most, int compute_capability) {
  constexpr int64_t kOfEach = 1 << 10;
  const int64_t fit = (SharedBytesOfBlock(compute_capability) + kOfEach) / (shared_bytes + kOfEach);
  return std::max<int64_t>(1, std::min(fit, most));
}

}  // namespace mlf
