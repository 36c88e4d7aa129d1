// Walks along a row, sixteen lanes at a time. Counterpart: simd.h.
#pragma once
#include "base/row_out.h"
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

// Past the caches, to an address at a line or, of 16-bit floats, half of one (base/row_out.h).
// Other levels have no such stores, or none of this width.
MLF_INLINE void Stream(float* p, F32 v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, v.part[0]);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, v.part[0]);
  _mm256_stream_ps(p + kWidth, v.part[1]);
#elif defined(__x86_64__)
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) _mm_stream_ps(p + kWidth * i, v.part[i]);
#else
  Store(p, v);
#endif
}
template <typename T>
MLF_INLINE void Stream(T* p, F32 v) {
  alignas(32) T narrow[kLanes];
  Store(narrow, v);
#if defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_load_si256(reinterpret_cast<const __m256i*>(narrow)));
#elif defined(__x86_64__)
  for (int i = 0; i < 2; ++i) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p) + i,
                     _mm_load_si128(reinterpret_cast<const __m128i*>(narrow) + i));
  }
#else
  std::memcpy(p, narrow, sizeof narrow);
#endif
}
/// A whole line of 16-bit floats, to an address at one: half lines leave slower.
template <typename T>
MLF_INLINE void StreamTwo(T* p, F32 first, F32 second) {
#if defined(__AVX512F__)
  alignas(32) T low[kLanes], high[kLanes];
  Store(low, first);
  Store(high, second);
  const __m512i both =
      _mm512_castsi256_si512(_mm256_load_si256(reinterpret_cast<const __m256i*>(low)));
  _mm512_stream_si512(
      reinterpret_cast<__m512i*>(p),
      _mm512_inserti64x4(both, _mm256_load_si256(reinterpret_cast<const __m256i*>(high)), 1));
#else
  Stream(p, first);
  Stream(p + kLanes, second);
#endif
}
/// Whole lines, from and to addresses at a line.
MLF_INLINE void StreamLines(void* to, const void* from, int64_t bytes) {
  auto* out = static_cast<float*>(to);
  const auto* in = static_cast<const float*>(from);
  for (; bytes > 0; bytes -= kCacheLine, out += kLanes, in += kLanes) Stream(out, Load(in));
}
/// Orders streamed stores before what this thread does next.
MLF_INLINE void EndStream() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <bool kStream, typename T>
MLF_INLINE void Put(T* p, F32 v, int count) {
  if constexpr (kStream) {
    if (count == kLanes) return Stream(p, v);
  }
  StoreCount(p, v, count);
}

/// Calls fn<stream>(data), and ends the stream.
template <typename T, typename Fn>
MLF_INLINE void WithOut(RowOut<T> out, Fn fn) {
  if (!out.stream) return fn.template operator()<false>(out.data);
  fn.template operator()<true>(out.data);
  EndStream();
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
