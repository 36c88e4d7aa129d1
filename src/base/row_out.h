// Where a kernel's row goes. Light: *_simd.cc files include it; they store by Put (simd_row.h).
#pragma once
#include <cstdint>

namespace mlf {

/// `stream`: past the caches, for arrays that no cache holds until somebody reads them. Their lines
/// are then not read before they are written, which is a third of the traffic of a copy. Only where
/// rows begin at a line.
template <typename T>
struct RowOut {
  T* data;
  bool stream;
  RowOut(T* data, bool stream = false)  // NOLINT(google-explicit-constructor)
      : data(data), stream(stream) {}
};

constexpr int64_t kCacheLine = 64;
/// More than a core can hope to find in a cache.
constexpr int64_t kStreamedBytes = int64_t{32} << 20;

/// Whether rows of `row_bytes` at `out`, `bytes` in all, are to be streamed; not where they replace
/// `in`, whose lines are read anyway.
inline bool WorthStreaming(const void* out, const void* in, int64_t bytes, int64_t row_bytes) {
  return bytes > kStreamedBytes && out != in && row_bytes % kCacheLine == 0 &&
         reinterpret_cast<uintptr_t>(out) % kCacheLine == 0;
}

}  // namespace mlf
