// How rows of logits are cut for kernels that choose from them on CUDA. Counterparts: sampling.cu,
// sampling_top_k.cu, sampling_argmax.cu.
#pragma once
#include <algorithm>
#include <cstdint>

#include "base/half.h"
#include "kernels/grid_launch.h"

namespace mlf {

// A row is surveyed in chunks of 8192 elements, each by one block whose threads hold a group of 32
// elements. The cut depends on the row's length alone, and so do sums over its chunks.
inline constexpr int kSurveyThreads = 256;
inline constexpr int kGroupElements = 32;
inline constexpr int64_t kChunkElements = int64_t{kSurveyThreads} * kGroupElements;

MLF_HOST_DEVICE constexpr int64_t SurveyChunks(int64_t n) {
  return (n + kChunkElements - 1) / kChunkElements;
}

/// Peaks of a row: one a group.
MLF_HOST_DEVICE constexpr int64_t SurveyGroups(int64_t n) {
  return SurveyChunks(n) * kSurveyThreads;
}

// One block then chooses from a row.
inline constexpr int kChoiceThreads = 512;
inline constexpr int kSortedPlaces = 2048;  // that a block sorts at once
inline constexpr int kUsualPlaces = 256;    // that a draw without top_k looks at: most end within

/// The most elements that top_k takes from a prefix that one block sorts: above, so many groups
/// hold one of the best that the prefix may not fit.
inline constexpr int64_t kMaxPrefix = 1024;

/// Rows of so few elements are sorted whole.
inline constexpr int64_t kSortedRow = 1024;

/// Bits behind the point of weights that are summed as integers, so that a sum over n of up to 1
/// each stays below 2^62: sums of integers are the same in any order.
MLF_HOST_DEVICE constexpr int WeightBits(int64_t n) {
  int bits = 62;
  while (bits > 0 && (n - 1) >> (62 - bits) != 0) --bits;
  return bits;
}

// ---- argmax -------------------------------------------------------------------------------------

inline constexpr int kArgmaxThreads = 256;
inline constexpr int64_t kArgmaxPiece = 8192;  // elements that a block reads at least, of long rows

/// Blocks that share a row: as many as are idle otherwise, four to a multiprocessor.
constexpr int64_t ArgmaxSplits(int64_t rows, int64_t n, int64_t multiprocessors) {
  const int64_t pieces = (n + kArgmaxPiece - 1) / kArgmaxPiece,
                wanted = (4 * multiprocessors + rows - 1) / std::max<int64_t>(1, rows);
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, pieces));
}

/// Elements of each of them, in whole chunks; the last may be left with none.
constexpr int64_t ArgmaxPiece(int64_t n, int64_t splits, int64_t chunk) {
  return ((n + splits - 1) / splits + chunk - 1) / chunk * chunk;
}

// ---- top_k of many ------------------------------------------------------------------------------

/// Blocks that sort kSortedPlaces of a row's k elements each.
constexpr unsigned SortedTileBlocks(int64_t rows, int64_t k) {
  return BlocksOf(rows * ((k + kSortedPlaces - 1) / kSortedPlaces));
}

/// Blocks that merge or put away so many elements, of all rows, a thread each.
constexpr unsigned PlaceBlocks(int64_t elements) { return BlocksOf(elements, kChoiceThreads); }

/// Passes that merge k sorted elements, in tiles of kSortedPlaces at first, into one run.
constexpr int MergePasses(int64_t k) {
  int passes = 0;
  for (int64_t run = kSortedPlaces; run < k; run *= 2) ++passes;
  return passes;
}

}  // namespace mlf
