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

// a > b ? a : b is what x86 has an instruction for, but compilers do not know it of vectors.
/// The larger lane; b where either is NaN.
MLF_INLINE F32 Max(F32 a, F32 b) {
  return Map<F32>([&](int p) -> NativeF32 {
#if defined(__AVX512F__)
    return _mm512_max_ps(a.part[p], b.part[p]);
#elif defined(__AVX2__)
    return _mm256_max_ps(a.part[p], b.part[p]);
#elif defined(__x86_64__)
    return _mm_max_ps(a.part[p], b.part[p]);
#else
    return a.part[p] > b.part[p] ? a.part[p] : b.part[p];
#endif
  });
}
/// The smaller lane; b where either is NaN.
MLF_INLINE F32 Min(F32 a, F32 b) {
  return Map<F32>([&](int p) -> NativeF32 {
#if defined(__AVX512F__)
    return _mm512_min_ps(a.part[p], b.part[p]);
#elif defined(__AVX2__)
    return _mm256_min_ps(a.part[p], b.part[p]);
#elif defined(__x86_64__)
    return _mm_min_ps(a.part[p], b.part[p]);
#else
    return a.part[p] < b.part[p] ? a.part[p] : b.part[p];
#endif
  });
}

// Reductions fold the upper half onto the lower one: the same tree at every level.
typedef float FourLanes __attribute__((vector_size(16)));
template <typename Fn>
MLF_INLINE float ReduceFour(FourLanes v, Fn fn) {
  const FourLanes two = fn(v, __builtin_shufflevector(v, v, 2, 3, 2, 3));
  return fn(two, __builtin_shufflevector(two, two, 1, 1, 1, 1))[0];
}
template <typename Fn>
MLF_INLINE float Reduce(F32 v, Fn fn) {
#if defined(__AVX512F__)
  const __m256 eight = fn(_mm512_castps512_ps256(v.part[0]), _mm512_extractf32x8_ps(v.part[0], 1));
  return ReduceFour(fn(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)), fn);
#elif defined(__AVX2__)
  const __m256 eight = fn(v.part[0], v.part[1]);
  return ReduceFour(fn(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)), fn);
#else
  return ReduceFour(fn(fn(v.part[0], v.part[2]), fn(v.part[1], v.part[3])), fn);
#endif
}
MLF_INLINE float ReduceAdd(F32 v) {
  return Reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}
MLF_INLINE float ReduceMax(F32 v) {
  return Reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
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

#if defined(__AVX512F__)
/// Word indices of a permutation: of upper halves to the front, or from the front to upper halves.
template <bool kToFront>
MLF_INLINE __m512i UpperWords() {
  typedef int16_t Words __attribute__((vector_size(64)));
  Words out{};
  for (int16_t i = 0; i < kLanes; ++i) out[kToFront ? i : 2 * i + 1] = kToFront ? 2 * i + 1 : i;
  return (__m512i)out;
}
#endif

MLF_INLINE F32 Load(const BF16* p) {
#if defined(__AVX512F__)
  // Word i to word 2i + 1, zeros between: one instruction where widening and shifting are two.
  const __m512i narrow =
      _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {{_mm512_castsi512_ps(
      _mm512_maskz_permutexvar_epi16(0xAAAAAAAA, UpperWords<false>(), narrow))}};
#elif defined(__AVX2__)
  return Map<F32>([&](int i) -> NativeF32 {
    const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + i);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
  });
#else
  return Map<F32>([&](int i) -> NativeF32 {
    NativeU16 narrow;
    std::memcpy(&narrow, p + kWidth * i, sizeof narrow);
    return (NativeF32)(__builtin_convertvector(narrow, NativeU32) << 16);
  });
#endif
}

/// The lanes rounded to nearest even in their upper halves; NaN stays NaN. The lower halves do not
/// matter.
MLF_INLINE NativeU32 RoundToBF16(NativeF32 v) {
  const NativeU32 u = (NativeU32)v;
  const NativeU32 rounded = u + 0x7FFF + ((u >> 16) & 1), quiet = u | 0x400000;
#if defined(__AVX512F__)
  return (NativeU32)_mm512_mask_mov_epi32((__m512i)rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
                                          (__m512i)quiet);
#else
  return v == v ? rounded : quiet;
#endif
}

MLF_INLINE void Store(BF16* p, F32 v) {
#if defined(__AVX512F__)
  const __m512i words =
      _mm512_permutexvar_epi16(UpperWords<true>(), (__m512i)RoundToBF16(v.part[0]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(words));
#elif defined(__AVX2__)
  const auto upper = [&](int i) { return (__m256i)(RoundToBF16(v.part[i]) >> 16); };
  const __m256i packed = _mm256_packus_epi32(upper(0), upper(1));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
#else
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    const NativeU16 narrow = __builtin_convertvector(RoundToBF16(v.part[i]) >> 16, NativeU16);
    std::memcpy(p + kWidth * i, &narrow, sizeof narrow);
  }
#endif
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

/// x = n ln 2 + r with n whole and |r| <= ln 2 / 2. The low bits of `shifted` are n: it is x / ln 2
/// plus 1.5 * 2^23, which rounds to whole numbers.
struct ExpParts {
  F32 shifted, r;
};
MLF_INLINE ExpParts SplitExp(F32 x) {
  const F32 magic = Set(12582912.f), shifted = Fma(x, Set(1.44269504f), magic);
  const F32 n = shifted - magic;
  const F32 r = Fma(n, Set(-0.693359375f), x);
  return {shifted, Fma(n, Set(2.12194440e-4f), r)};
}

/// (e^r - 1 - r) / r^2 (minimax by Cephes' expf).
MLF_INLINE F32 ExpSeries(F32 r) {
  F32 poly = Set(1.9875691500e-4f);
  poly = Fma(poly, r, Set(1.3981999507e-3f));
  poly = Fma(poly, r, Set(8.3334519073e-3f));
  poly = Fma(poly, r, Set(4.1665795894e-2f));
  poly = Fma(poly, r, Set(1.6666665459e-1f));
  return Fma(poly, r, Set(5.0000001201e-1f));
}

/// e^x for −87.33 ≤ x ≤ 88.37, to 2 ulp; NaN propagates.
MLF_INLINE F32 ExpWithin(F32 x) {
  const ExpParts parts = SplitExp(x);
  const F32 r = parts.r, poly = Fma(ExpSeries(r), r * r, r + Set(1.f));
  return poly * Map<F32>([&](int p) {
           return (NativeF32)(((NativeI32)parts.shifted.part[p] << 23) + 0x3F800000);
         });
}

/// e^x to 2 ulp; 0 below −87.3 (so −inf gives 0 exactly), about 1.7e38 above 88; NaN propagates.
MLF_INLINE F32 Exp(F32 x) {
  const F32 low = Set(-87.33654f), exp = ExpWithin(Max(low, Min(Set(88.37626f), x)));
  return Map<F32>(
      [&](int p) -> NativeF32 { return x.part[p] < low.part[p] ? NativeF32{} : exp.part[p]; });
}

}  // namespace mlf::MLF_LEVEL
