// Sixteen float lanes for *_simd.cc files, over whatever the level has: one AVX-512 register, two
// of AVX2, four of SSE or NEON. The same source gives every level the same order of operations;
// only fused multiply-add differs on baseline x86.
#pragma once
#include <cstdint>
#include <cstring>

#include "base/half.h"

#ifndef MLF_LEVEL
#error "base/simd.h is for *_simd.cc files, which CMake compiles once per level"
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#define MLF_INLINE static inline __attribute__((always_inline))

namespace mlf::MLF_LEVEL {

inline constexpr int kLanes = 16;
#if defined(__AVX512F__)
inline constexpr int kWidth = 16;  // floats per register
#elif defined(__AVX2__)
inline constexpr int kWidth = 8;
#else
inline constexpr int kWidth = 4;
#endif
inline constexpr int kParts = kLanes / kWidth;

typedef float NativeF32 __attribute__((vector_size(4 * kWidth)));
typedef int32_t NativeI32 __attribute__((vector_size(4 * kWidth)));

struct F32 {
  NativeF32 part[kParts];
};
struct I32 {
  NativeI32 part[kParts];
};

template <typename V, typename Fn>
MLF_INLINE V Map(Fn fn) {
  V out;
#pragma GCC unroll 4
  for (int p = 0; p < kParts; ++p) out.part[p] = fn(p);
  return out;
}

MLF_INLINE F32 Set(float x) {  // x - 0 is x for every x (0 + x is not, for -0): no instruction
  return Map<F32>([&](int) { return x - NativeF32{}; });
}
MLF_INLINE F32 Zero() {
  return Map<F32>([](int) { return NativeF32{}; });
}
// Register by register: a copy of the whole struct would go through the stack.
MLF_INLINE F32 Load(const float* p) {
  return Map<F32>([&](int i) {
    NativeF32 part;
    std::memcpy(&part, p + kWidth * i, sizeof part);
    return part;
  });
}
MLF_INLINE void Store(float* p, F32 v) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    const NativeF32 part = v.part[i];
    std::memcpy(p + kWidth * i, &part, sizeof part);
  }
}

MLF_INLINE F32 operator+(F32 a, F32 b) {
  return Map<F32>([&](int p) { return a.part[p] + b.part[p]; });
}
MLF_INLINE F32 operator-(F32 a, F32 b) {
  return Map<F32>([&](int p) { return a.part[p] - b.part[p]; });
}
MLF_INLINE F32 operator*(F32 a, F32 b) {
  return Map<F32>([&](int p) { return a.part[p] * b.part[p]; });
}
MLF_INLINE F32 operator/(F32 a, F32 b) {
  return Map<F32>([&](int p) { return a.part[p] / b.part[p]; });
}
MLF_INLINE I32 operator+(I32 a, I32 b) {
  return Map<I32>([&](int p) { return a.part[p] + b.part[p]; });
}

/// a * b + c, fused where the level has it.
MLF_INLINE F32 Fma(F32 a, F32 b, F32 c) {
  return Map<F32>([&](int p) -> NativeF32 {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a.part[p], b.part[p], c.part[p]);
#elif defined(__AVX2__)
    return _mm256_fmadd_ps(a.part[p], b.part[p], c.part[p]);
#elif defined(__aarch64__)
    return vfmaq_f32(c.part[p], a.part[p], b.part[p]);
#else
    return a.part[p] * b.part[p] + c.part[p];
#endif
  });
}

/// The larger lane; b where either is NaN (as x86 has it).
MLF_INLINE F32 Max(F32 a, F32 b) {
  return Map<F32>(
      [&](int p) -> NativeF32 { return a.part[p] > b.part[p] ? a.part[p] : b.part[p]; });
}
MLF_INLINE F32 Min(F32 a, F32 b) {
  return Map<F32>(
      [&](int p) -> NativeF32 { return a.part[p] < b.part[p] ? a.part[p] : b.part[p]; });
}

// Reductions fold the upper half onto the lower one: the same tree at every level.
template <typename Fn>
MLF_INLINE float Reduce(F32 v, Fn fn) {
  float lane[kLanes];
  Store(lane, v);
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) lane[i] = fn(lane[i], lane[i + half]);
  }
  return lane[0];
}
MLF_INLINE float ReduceAdd(F32 v) {
  return Reduce(v, [](float a, float b) { return a + b; });
}
MLF_INLINE float ReduceMax(F32 v) {
  return Reduce(v, [](float a, float b) { return a > b ? a : b; });
}

MLF_INLINE F32 ToFloat(I32 v) {
  return Map<F32>([&](int p) { return __builtin_convertvector(v.part[p], NativeF32); });
}
MLF_INLINE F32 BitsToFloat(I32 v) {
  return Map<F32>([&](int p) { return (NativeF32)v.part[p]; });
}
MLF_INLINE I32 FloatToBits(F32 v) {
  return Map<I32>([&](int p) { return (NativeI32)v.part[p]; });
}

// ---- 16-bit storage -----------------------------------------------------------------------------

MLF_INLINE F32 Load(const F16* p) {
#if defined(__AVX512F__)
  return {{_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}};
#elif defined(__AVX2__)
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {{_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))}};
#elif defined(__aarch64__)
  return Map<F32>([&](int i) -> NativeF32 {
    return vcvt_f32_f16(
        vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p) + 4 * i)));
  });
#else
  typedef uint16_t Bits16 __attribute__((vector_size(8)));
  typedef uint32_t Bits32 __attribute__((vector_size(16)));
  return Map<F32>([&](int i) -> NativeF32 {
    Bits16 narrow;
    std::memcpy(&narrow, p + 4 * i, sizeof narrow);
    const Bits32 h = __builtin_convertvector(narrow, Bits32);
    const Bits32 rest = h & 0x7FFF, sign = (h & 0x8000) << 16;
    const Bits32 finite = (Bits32)((NativeF32)(rest << 13) * 0x1p112f);
    const Bits32 special = 0x7F800000 | (rest & 0x3FF) << 13;
    return (NativeF32)(sign | (rest >= 0x7C00 ? special : finite));
  });
#endif
}

MLF_INLINE void Store(F16* p, F32 v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v.part[0], _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  auto* halves = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(halves, _mm256_cvtps_ph(v.part[0], _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(v.part[1], _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
  for (int i = 0; i < kParts; ++i) {
    vst1_u16(reinterpret_cast<uint16_t*>(p) + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(v.part[i])));
  }
#else
  float lane[kLanes];
  Store(lane, v);
  for (int i = 0; i < kLanes; ++i) p[i] = F16::From(lane[i]);
#endif
}

typedef uint16_t NativeU16 __attribute__((vector_size(2 * kWidth)));
typedef uint32_t NativeU32 __attribute__((vector_size(4 * kWidth)));

MLF_INLINE F32 Load(const BF16* p) {
  return Map<F32>([&](int i) -> NativeF32 {
    NativeU16 narrow;
    std::memcpy(&narrow, p + kWidth * i, sizeof narrow);
    return (NativeF32)(__builtin_convertvector(narrow, NativeU32) << 16);
  });
}

MLF_INLINE void Store(BF16* p, F32 v) {  // to nearest even; NaN stays NaN
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    const NativeU32 u = (NativeU32)v.part[i];
    const NativeU32 rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16, quiet = (u >> 16) | 0x40;
    const NativeU16 narrow =
        __builtin_convertvector((u & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded, NativeU16);
    std::memcpy(p + kWidth * i, &narrow, sizeof narrow);
  }
}

/// The first n < 16 elements, the other lanes `fill`.
template <typename T>
MLF_INLINE F32 LoadPartial(const T* p, int n, float fill = 0.f) {
  T whole[kLanes] = {};
  std::memcpy(whole, p, n * sizeof(T));
  float lane[kLanes];
  Store(lane, Load(whole));
  for (int i = n; i < kLanes; ++i) lane[i] = fill;
  return Load(lane);
}
template <typename T>
MLF_INLINE void StorePartial(T* p, F32 v, int n) {
  T whole[kLanes];
  Store(whole, v);
  std::memcpy(p, whole, n * sizeof(T));
}

// ---- functions ----------------------------------------------------------------------------------

/// e^x to 2 ulp for x in [-87.33654, 88.37626]: 2^n times a polynomial on [−ln 2 / 2, ln 2 / 2]
/// (minimax by Cephes' expf).
MLF_INLINE F32 ExpInRange(F32 x) {
  // Round x / ln 2 to an integer by adding 1.5 * 2^23: the integer is then the low bits of the sum.
  const F32 magic = Set(12582912.f), shifted = Fma(x, Set(1.44269504f), magic);
  const F32 n = shifted - magic;
  F32 r = Fma(n, Set(-0.693359375f), x);
  r = Fma(n, Set(2.12194440e-4f), r);
  F32 poly = Set(1.9875691500e-4f);
  poly = Fma(poly, r, Set(1.3981999507e-3f));
  poly = Fma(poly, r, Set(8.3334519073e-3f));
  poly = Fma(poly, r, Set(4.1665795894e-2f));
  poly = Fma(poly, r, Set(1.6666665459e-1f));
  poly = Fma(poly, r, Set(5.0000001201e-1f));
  poly = Fma(poly, r * r, r + Set(1.f));
  return Map<F32>([&](int p) -> NativeF32 {
    return (NativeF32)((NativeI32)poly.part[p] + ((NativeI32)shifted.part[p] << 23));
  });
}

/// e^x to 2 ulp; 0 below −87.3 (so −inf gives 0 exactly), about 1.7e38 above 88; NaN propagates.
MLF_INLINE F32 Exp(F32 x) {
  const F32 low = Set(-87.33654f), high = Set(88.37626f);
  const F32 scaled = ExpInRange(Max(low, Min(high, x)));
  return Map<F32>([&](int p) -> NativeF32 {
    const NativeF32 v = x.part[p];
    return v < low.part[p] ? NativeF32{} : (v == v ? scaled.part[p] : v);
  });
}

}  // namespace mlf::MLF_LEVEL
