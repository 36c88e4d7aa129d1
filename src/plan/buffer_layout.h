// Where the buffers of a plan lie in one block of memory. Counterpart: buffer_layout.cc.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace mlf {

/// A buffer is needed from step `first` to step `last`, both included.
struct BufferLife {
  int32_t first, last;
  int64_t bytes;
  int64_t offset = 0;  // found by PlaceBuffers
};

/// Offsets, multiples of 64, such that no two lives of one step overlap in memory; each buffer goes
/// to the smallest gap that it fits. Returns the bytes of the block. `lives` stand in the order of
/// `first`. ValueError where the block would be larger than any memory.
int64_t PlaceBuffers(std::span<BufferLife> lives);

}  // namespace mlf
