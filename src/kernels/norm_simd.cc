// One row of a normalisation. Counterparts: norm_simd.h, norm.cc.
#include "kernels/norm_simd.h"

#include "base/simd.h"

namespace mlf::MLF_LEVEL {

constexpr int kChains = 4;  // independent sums of squares, so that additions overlap

/// 1 / sqrt(mean of squares + eps), in double at the end: once per row.
MLF_INLINE F32 InverseRms(const F32* sum, int64_t n, double eps) {
  const double squares = ReduceAdd((sum[0] + sum[1]) + (sum[2] + sum[3]));
  return Set(static_cast<float>(1.0 / __builtin_sqrt(squares / static_cast<double>(n) + eps)));
}

/// Calls fn(i, chain, count) for every 16 elements of a row; count < 16 at its end.
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
  if (i < n) fn(i, kChains - 1, static_cast<int>(n - i));
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

template <typename T>
MLF_INLINE void Scale(T* out, const T* x, const T* weight, int64_t n, F32 scale) {
  ForLanes(n, [&](int64_t i, int, int count) __attribute__((always_inline)) {
    StoreCount(out + i, LoadCount(x + i, count) * scale * LoadCount(weight + i, count), count);
  });
}

template <typename T>
MLF_INLINE void RmsNorm(T* out, const T* x, const T* weight, int64_t n, double eps) {
  F32 sum[kChains] = {Zero(), Zero(), Zero(), Zero()};
  ForLanes(n, [&](int64_t i, int chain, int count) __attribute__((always_inline)) {
    const F32 v = LoadCount(x + i, count);
    sum[chain] = Fma(v, v, sum[chain]);
  });
  Scale(out, x, weight, n, InverseRms(sum, n, eps));
}

/// The sum is rounded to T before it is squared: the norm is that of what `residual` holds.
template <typename T>
MLF_INLINE void AddRmsNorm(T* out, T* residual, const T* x, const T* weight, int64_t n,
                           double eps) {
  F32 sum[kChains] = {Zero(), Zero(), Zero(), Zero()};
  ForLanes(n, [&](int64_t i, int chain, int count) __attribute__((always_inline)) {
    StoreCount(residual + i, LoadCount(residual + i, count) + LoadCount(x + i, count), count);
    const F32 v = LoadCount(residual + i, count);
    sum[chain] = Fma(v, v, sum[chain]);
  });
  Scale(out, residual, weight, n, InverseRms(sum, n, eps));
}

void RmsNormRow(float* out, const float* x, const float* weight, int64_t n, double eps) {
  RmsNorm(out, x, weight, n, eps);
}
void RmsNormRow(F16* out, const F16* x, const F16* weight, int64_t n, double eps) {
  RmsNorm(out, x, weight, n, eps);
}
void RmsNormRow(BF16* out, const BF16* x, const BF16* weight, int64_t n, double eps) {
  RmsNorm(out, x, weight, n, eps);
}
void AddRmsNormRow(float* out, float* residual, const float* x, const float* weight, int64_t n,
                   double eps) {
  AddRmsNorm(out, residual, x, weight, n, eps);
}
void AddRmsNormRow(F16* out, F16* residual, const F16* x, const F16* weight, int64_t n,
                   double eps) {
  AddRmsNorm(out, residual, x, weight, n, eps);
}
void AddRmsNormRow(BF16* out, BF16* residual, const BF16* x, const BF16* weight, int64_t n,
                   double eps) {
  AddRmsNorm(out, residual, x, weight, n, eps);
}

}  // namespace mlf::MLF_LEVEL
