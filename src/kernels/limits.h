// What this machine can do at most, which speeds are held against: reads and copies of memory,
// multiply-adds of floats and bytes. Counterpart: limits.cc; the loops are in limits_simd.h.
#pragma once
#include <cstdint>
#include <mutex>

#include "base/buffer.h"

namespace mlf {

/// Measures with the instructions of the CPU level in use, by the threads of the pool. Each call is
/// one measurement of some milliseconds; on a shared machine the best of several is the limit.
/// From any thread; calls wait for each other.
class MachineLimits {
 public:
  /// `n_threads`: 0 for all; `bytes`: the working set of Read and Copy, which is touched here, on
  /// huge pages (as the weights of a model lie) or on small ones (as arrays of frameworks do).
  /// ValueError for fewer than kLeastBytes.
  MachineLimits(int n_threads, int64_t bytes, bool huge_pages);
  static constexpr int64_t kLeastBytes = int64_t{4} << 20;

  double ReadBytesPerSecond() const;
  /// Bytes read plus bytes written, by whatever copies faster: plain stores, or stores that pass by
  /// the caches.
  double CopyBytesPerSecond() const;
  double FloatOpsPerSecond() const;
  /// 8-bit products with 32-bit sums.
  double ByteOpsPerSecond() const;

 private:
  using CopyFn = void(uint8_t* to, const uint8_t* from, int64_t bytes);
  double CopySpeed(CopyFn* copy) const;

  int n_threads_;
  Buffer memory_;
  CopyFn* copy_;
  mutable std::mutex mutex_;
};

}  // namespace mlf
