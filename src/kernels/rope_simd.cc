// One head of a rotary embedding. Counterparts: rope_simd.h, rope.cc.
#include "kernels/rope_simd.h"

#include "base/simd_row.h"

namespace mlf::MLF_LEVEL {

template <typename T>
MLF_INLINE void Neox(T* x, const float* cos, const float* sin, int64_t pairs) {
  T *low = x, *high = x + pairs;
  ForLanes(pairs, [&](int64_t i, int, int count) __attribute__((always_inline)) {
    const F32 a = LoadCount(low + i, count), b = LoadCount(high + i, count),
              c = LoadCount(cos + i, count), s = LoadCount(sin + i, count);
    StoreCount(low + i, a * c - b * s, count);
    StoreCount(high + i, a * s + b * c, count);
  });
}

// Left to the compiler, which de-interleaves with shuffles.
MLF_INLINE void TurnPairs(float* __restrict x, const float* __restrict cos,
                          const float* __restrict sin, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

/// By way of floats, so many pairs that none is read back right after it was written.
template <typename T>
MLF_INLINE void Interleaved(T* x, const float* cos, const float* sin, int64_t pairs) {
  constexpr int64_t kPairs = 64;
  float wide[2 * kPairs];
  for (int64_t begin = 0; begin < pairs; begin += kPairs) {
    const int64_t n = pairs - begin < kPairs ? pairs - begin : kPairs;
    T* const at = x + 2 * begin;
    ForLanes(2 * n, [&](int64_t i, int, int count) __attribute__((always_inline)) {
      StoreCount(wide + i, LoadCount(at + i, count), count);
    });
    TurnPairs(wide, cos + begin, sin + begin, n);
    ForLanes(2 * n, [&](int64_t i, int, int count) __attribute__((always_inline)) {
      StoreCount(at + i, LoadCount(wide + i, count), count);
    });
  }
}

void RopeNeoxHead(float* x, const float* cos, const float* sin, int64_t pairs) {
  Neox(x, cos, sin, pairs);
}
void RopeNeoxHead(F16* x, const float* cos, const float* sin, int64_t pairs) {
  Neox(x, cos, sin, pairs);
}
void RopeNeoxHead(BF16* x, const float* cos, const float* sin, int64_t pairs) {
  Neox(x, cos, sin, pairs);
}

void RopeInterleavedHead(float* x, const float* cos, const float* sin, int64_t pairs) {
  TurnPairs(x, cos, sin, pairs);
}
void RopeInterleavedHead(F16* x, const float* cos, const float* sin, int64_t pairs) {
  Interleaved(x, cos, sin, pairs);
}
void RopeInterleavedHead(BF16* x, const float* cos, const float* sin, int64_t pairs) {
  Interleaved(x, cos, sin, pairs);
}

}  // namespace mlf::MLF_LEVEL
