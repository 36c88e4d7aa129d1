// Walks along a row, sixteen lanes at a time. Counterpart: simd.h.
#pragma once
#include "base/simd.h"

namespace mlf::MLF_LEVEL {

constexpr int kChains = 4;  // independent sums or maxima, so that their steps overlap

/// Calls fn(i, chain, count) for every 16 elements of a row; count < 16 at its end. What a chain
/// sees depends on n alone.
template <typename Fn>
MLF_INLINE void ForLanes(int64_t n, Fn fn) {
  int64_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) fn(i + c * kLanes, c, kLanes);
  }
#pragma GCC unroll 4
  for (int c = 0; c < kChains - 1; ++c) {  // unrolled, so that the sums stay in registers
    if (i + kLanes > n) break;
    fn(i, c, kLanes);
    i += kLanes;
  }
  const int rest = static_cast<int>(n & (kLanes - 1));
  if (rest != 0) fn(i, kChains - 1, rest);
}

/// Asks for what comes `ahead` elements after p, beyond the end of an array too: while one row is
/// computed the next one travels, and a walk goes on where a page ends, as hardware does not.
template <typename T>
MLF_INLINE void Prefetch(const T* p, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) +
                                                   static_cast<uintptr_t>(ahead) * sizeof(T)));
}

template <typename T>
MLF_INLINE F32 LoadCount(const T* p, int count) {
  return count == kLanes ? Load(p) : LoadPartial(p, count);
}
template <typename T>
MLF_INLINE void StoreCount(T* p, F32 v, int count) {
  if (count == kLanes) return Store(p, v);
  StorePartial(p, v, count);
}

/// The first `count` lanes of v, `fill` in the others.
MLF_INLINE F32 Keep(F32 v, int count, float fill) {
  if (count == kLanes) return v;
  float lane[kLanes];
  Store(lane, v);
  for (int i = count; i < kLanes; ++i) lane[i] = fill;
  return Load(lane);
}

MLF_INLINE float SumOfChains(const F32* sum) {
  return ReduceAdd((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

}  // namespace mlf::MLF_LEVEL
