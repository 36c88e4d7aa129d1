// Rows of logits cut into fixed blocks, for kernels that reduce over a vocabulary. Used by
// sampling.cc, ranking.cc and logit_mask.cc.
#pragma once
#include <algorithm>
#include <cstdint>

#include "base/thread_pool.h"

namespace mlf {

/// Elements per block: 4 us of softmax weights with AVX-512, above a wake-up. What is summed block
/// by block has the same bits on any number of threads. A multiple of the 32 bits of a mask's word.
inline constexpr int64_t kRowBlock = 16384;

inline int64_t RowBlockCount(int64_t n) { return (n + kRowBlock - 1) / kRowBlock; }

/// The blocks of one row: all on this thread, or spread over the pool.
struct RowBlocks {
  bool spread;

  /// fn(block, begin, count) for every block of a row of n elements.
  template <typename Fn>
  void For(int64_t n, Fn fn) const {
    ForOf(kRowBlock, n, fn);
  }

  /// The same for blocks of another size: for what does not depend on where a row is cut.
  template <typename Fn>
  void ForOf(int64_t size, int64_t n, Fn fn) const {
    const auto range = [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) fn(b, b * size, std::min(size, n - b * size));
    };
    const int64_t count = (n + size - 1) / size;
    if (spread) return ParallelFor(count, 1, range);
    range(0, count);
  }
};

/// fn(begin, end, blocks) over ranges of rows of n elements. Where there are rows for all threads,
/// each takes whole rows, which stay in its cache; else the rows come one after another and their
/// blocks are spread.
template <typename Fn>
void ForRowRanges(int64_t rows, int64_t n, Fn fn) {
  const int64_t threads = ThreadCount();
  const int64_t grain = std::max<int64_t>(1, kRowBlock / std::max<int64_t>(1, n));
  const bool few = rows < 4 * threads && rows % threads != 0 && RowBlockCount(n) > 1;
  if (few) return fn(int64_t{0}, rows, RowBlocks{true});
  ParallelFor(rows, grain, [&](int64_t begin, int64_t end) { fn(begin, end, RowBlocks{false}); });
}

}  // namespace mlf
