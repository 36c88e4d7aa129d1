// The tables in which seen tokens are counted on CUDA. Counterpart: penalties.cu.
#pragma once
#include <bit>
#include <cstdint>

namespace mlf {

/// Tokens of a row that are counted by one block in shared memory: 64 KiB of slots.
inline constexpr int64_t kSharedSeen = 4096;

/// Slots of the table of a row of `seen` tokens: a power of two, half of it empty at least, so that
/// a search for a token is short.
constexpr int64_t PenaltySlots(int64_t seen) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(2 * seen)));
}

}  // namespace mlf
