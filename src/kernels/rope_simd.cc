// Angles and one head of a rotary embedding. Counterparts: rope_simd.h, rope.cc.
#include "kernels/rope_simd.h"

#include "base/simd_row.h"

namespace mlf::MLF_LEVEL {

// ---- angles -------------------------------------------------------------------------------------

constexpr int kDoubles = kWidth / 2;  // per register
typedef double NativeF64 __attribute__((vector_size(8 * kDoubles)));
typedef float FewF32 __attribute__((vector_size(4 * kDoubles)));
typedef int32_t FewI32 __attribute__((vector_size(4 * kDoubles)));

/// The nearest whole number, of values of any size.
MLF_INLINE NativeF64 Round(NativeF64 x) {
#if defined(__AVX512F__)
  return _mm512_roundscale_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return _mm256_round_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__x86_64__)
  return _mm_round_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  return vrndnq_f64(x);
#endif
}

/// Sixteen angles as quarters of a turn: a whole number, -2 to 2, and what is left, at most a half.
struct Quarters {
  I32 whole;
  F32 rest;
};
MLF_INLINE Quarters SplitTurns(const double* turns, double position) {
  int32_t whole[kLanes];
  float rest[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; i += kDoubles) {
    NativeF64 t;
    std::memcpy(&t, turns + i, sizeof t);
    t = t * position;
    const NativeF64 quarters = (t - Round(t)) * 4.0, n = Round(quarters);
    const FewI32 w = __builtin_convertvector(n, FewI32);
    const FewF32 r = __builtin_convertvector(quarters - n, FewF32);
    std::memcpy(whole + i, &w, sizeof w);
    std::memcpy(rest + i, &r, sizeof r);
  }
  I32 q;
  std::memcpy(&q, whole, sizeof q);
  return {q, Load(rest)};
}

/// a, or b where the last bit of n is set; negative where the second bit of `sign` is.
MLF_INLINE F32 SelectSigned(F32 a, F32 b, I32 n, I32 sign) {
  return Map<F32>([&](int p) {
    const NativeI32 odd = -(n.part[p] & 1);
    const NativeI32 bits = ((NativeI32)a.part[p] & ~odd) | ((NativeI32)b.part[p] & odd);
    return (NativeF32)(bits ^ (NativeI32)((NativeU32)(sign.part[p] & 2) << 30));
  });
}

MLF_INLINE void CosSin(const double* turns, double position, F32& cos, F32& sin) {
  const Quarters quarters = SplitTurns(turns, position);
  // sin(pi/2 r) / r and (cos(pi/2 r) - 1) / r^2, minimax on [-1/2, 1/2]: errors 2e-9 and 5e-11.
  const F32 r = quarters.rest, z = r * r;
  F32 s = Set(-4.592289216816425e-3f), c = Set(9.040216682478786e-4f);
  s = Fma(s, z, Set(7.967590540647507e-2f));
  c = Fma(c, z, Set(-2.086028829216957e-2f));
  s = Fma(s, z, Set(-6.459629535675049e-1f));
  c = Fma(c, z, Set(2.5366923213005066e-1f));
  s = Fma(s, z, Set(1.570796251296997f)) * r;
  c = Fma(c, z, Set(-1.2337005138397217f));
  c = Fma(c, z, Set(1.f));
  const I32 n = quarters.whole, next = n + Map<I32>([](int) { return NativeI32{} + 1; });
  cos = SelectSigned(c, s, n, next);
  sin = SelectSigned(s, c, n, n);
}

void RopeAngles(float* cos, float* sin, double position, const double* turns, int64_t pairs,
                float magnitude) {
  const F32 factor = Set(magnitude);
  for (int64_t i = 0; i < pairs; i += kLanes) {
    const int count = static_cast<int>(pairs - i < kLanes ? pairs - i : kLanes);
    double some[kLanes] = {};
    const double* at = turns + i;
    if (count < kLanes) {
      std::memcpy(some, at, count * sizeof(double));
      at = some;
    }
    F32 c, s;
    CosSin(at, position, c, s);
    StoreCount(cos + i, c * factor, count);
    StoreCount(sin + i, s * factor, count);
  }
}

// ---- heads --------------------------------------------------------------------------------------

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
