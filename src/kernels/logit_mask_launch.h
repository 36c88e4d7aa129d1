// What the blocks of a launch over masked rows do, and in which order. Counterpart: logit_mask.cu.
#pragma once
#include <algorithm>
#include <cstdint>

#include "base/half.h"
#include "kernels/grid_launch.h"

namespace mlf {

inline constexpr int kMaskThreads = 256;
inline constexpr int kMaskBlocksPerMultiprocessor = 3;

/// Rows above these bytes are looked at and written in one launch, whose second look finds them in
/// the second-level cache. Below, all of them are there after the first launch. A third of what the
/// smallest such cache holds that this is meant for (40 MiB); not measured.
inline constexpr int64_t kMaskInterleavedBytes = int64_t{12} << 20;

/// Chunks of a row of n elements; one for an empty row, which has a status too.
constexpr int64_t MaskChunks(int64_t n, int64_t chunk) {
  return std::max<int64_t>(1, (n + chunk - 1) / chunk);
}

/// Blocks that look and write in one launch: as many as run at once, or a step each.
constexpr unsigned MaskInterleavedBlocks(int64_t items, int multiprocessors) {
  const int64_t at_once = int64_t{multiprocessors} * kMaskBlocksPerMultiprocessor;
  return static_cast<unsigned>(std::min(at_once, 2 * items));
}

/// Blocks that clear what such a launch counts: a thread to a row, and to its ticket.
constexpr unsigned MaskResetBlocks(int64_t rows) {
  return std::max(1u, BlocksOf(rows, kMaskThreads));
}

/// One chunk to look at or to write. Items are numbered by row, then by chunk.
struct MaskStep {
  bool writes;
  int64_t item;
};

/// How far writing follows looking: a row, so that a row is looked at before it is written, and as
/// many chunks as blocks may hold at a time, so that nobody waits for another's look.
constexpr int64_t MaskLag(int64_t items, int64_t chunks, int64_t blocks) {
  return std::min(items, chunks + blocks);
}

/// The steps of tickets 0 to 2 * items - 1. Every look at a row has a lower ticket than the writes
/// of that row: who draws tickets in order and waits for lower ones alone is never stuck, however
/// few blocks run at a time.
MLF_HOST_DEVICE constexpr MaskStep MaskStepOf(int64_t ticket, int64_t items, int64_t lag) {
  if (ticket < lag) return {false, ticket};
  const int64_t paired = ticket - lag;
  if (paired >= 2 * (items - lag)) return {true, ticket - items};
  return {paired % 2 == 1, paired % 2 == 1 ? paired / 2 : lag + paired / 2};
}

}  // namespace mlf
