// How rows of the CUDA softmax are cut and launched. Counterpart: softmax.cu.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/shared_memory.h"

namespace mlf {

// A row is cut into segments that a warp holds in its registers, kSoftmaxHeld vectors of 16 bytes
// to a lane. Each gives a part (maximum and sum), and parts are joined in one way, whoever made
// them: a block that has the row alone, or many blocks where rows are few. So a row's result does
// not depend on the others.
inline constexpr int kSoftmaxHeld = 4;
inline constexpr int kSoftmaxSegmentBytes = 32 * 16 * kSoftmaxHeld;
inline constexpr int kSoftmaxThreads = 512;      // of a block that has a row alone, at most
inline constexpr int kSoftmaxRowsThreads = 256;  // of a block whose warps have a row each, or ...
inline constexpr int kSoftmaxSplitWarps = kSoftmaxRowsThreads / 32;  // ... a segment each
inline constexpr int64_t kSoftmaxMaxParts = 4096;  // 32 KiB; of longer rows each warp joins its own
inline constexpr int kSoftmaxPartBytes = 8;

constexpr int64_t SoftmaxSegments(int64_t n, int value_bytes) {
  const int64_t segment = kSoftmaxSegmentBytes / value_bytes;
  return (n + segment - 1) / segment;
}

/// Shared memory of a block that has a row alone: its parts, and behind them segments beyond the
/// first of each warp, which wait there for their second use; what does not fit is read again.
struct SoftmaxShared {
  int64_t stage_at, staged;  // bytes before them, and their number

  constexpr int64_t Bytes() const { return stage_at + staged * kSoftmaxSegmentBytes; }
};
constexpr SoftmaxShared SoftmaxSharedOf(int64_t segments, int threads, int compute_capability) {
  const int64_t parts = (segments * kSoftmaxPartBytes + 15) / 16 * 16,
                room = SharedBytesOfBlock(compute_capability) - parts;
  return {parts, std::clamp<int64_t>(room / kSoftmaxSegmentBytes, 0, segments - threads / 32)};
}

/// Threads for the segments of a row, `most` of them at most, such that no warp has more rounds
/// than needed.
constexpr int SoftmaxThreadsOf(int64_t segments, int most) {
  const int64_t warps = most / 32, rounds = std::max<int64_t>(1, (segments + warps - 1) / warps);
  return static_cast<int>(32 * std::max<int64_t>(1, (segments + rounds - 1) / rounds));
}

/// Threads of a block that has a row alone. kSoftmaxThreads take all registers of a multiprocessor;
/// where there are rows enough, two blocks of half as many share it if its memory holds the rows of
/// both, so that one reads while the other writes. By arithmetic, not measured.
constexpr int SoftmaxThreads(int64_t rows, int64_t segments, int multiprocessors,
                             int compute_capability) {
  const int half = SoftmaxThreadsOf(segments, kSoftmaxThreads / 2);
  const SoftmaxShared shared = SoftmaxSharedOf(segments, half, compute_capability);
  const bool fit = shared.staged == segments - half / 32 &&
                   BlocksAtOnce(shared.Bytes(), 2, compute_capability) == 2;
  return rows > multiprocessors && fit ? half : SoftmaxThreadsOf(segments, kSoftmaxThreads);
}

/// Whether rows are so few and so long that many blocks should share one.
constexpr bool SoftmaxSplits(int64_t rows, int64_t segments, int multiprocessors) {
  constexpr int64_t kLong = 32;
  return segments > kLong && 2 * rows <= multiprocessors;
}

}  // namespace mlf
