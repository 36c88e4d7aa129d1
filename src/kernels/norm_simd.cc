// One row of a normalisation. Counterparts: norm_simd.h, norm.cc.
#include "kernels/norm_simd.h"

#include "base/simd_row.h"

namespace mlf::MLF_LEVEL {

/// 1 / sqrt(mean of squares + eps), in double at the end: once per row.
MLF_INLINE F32 InverseRms(const F32* sum, int64_t n, double eps) {
  const double squares = SumOfChains(sum);
  return Set(static_cast<float>(1.0 / __builtin_sqrt(squares / static_cast<double>(n) + eps)));
}

/// `next` is what the row after this one is first read from: it travels meanwhile.
template <typename T>
MLF_INLINE void Scale(RowOut<T> row, const T* x, const T* weight, int64_t n, F32 scale,
                      const T* next) {
  WithOut(row, [&]<bool kStream>(T* out) __attribute__((always_inline)) {
    ForLanes(n, [&](int64_t i, int, int count) __attribute__((always_inline)) {
      Prefetch(next + i, 0);
      const F32 v = LoadCount(x + i, count) * scale * LoadCount(weight + i, count);
      Put<kStream>(out + i, v, count);
    });
  });
}

template <typename T>
MLF_INLINE void RmsNorm(RowOut<T> out, const T* x, const T* weight, int64_t n, double eps) {
  F32 sum[kChains] = {Zero(), Zero(), Zero(), Zero()};
  ForLanes(n, [&](int64_t i, int chain, int count) __attribute__((always_inline)) {
    const F32 v = LoadCount(x + i, count);
    sum[chain] = Fma(v, v, sum[chain]);
  });
  Scale(out, x, weight, n, InverseRms(sum, n, eps), x + n);
}

/// The sum is rounded to T before it is squared: the norm is that of what `residual` holds.
template <typename T>
MLF_INLINE void AddRmsNorm(RowOut<T> out, T* residual, const T* x, const T* weight, int64_t n,
                           double eps) {
  F32 sum[kChains] = {Zero(), Zero(), Zero(), Zero()};
  ForLanes(n, [&](int64_t i, int chain, int count) __attribute__((always_inline)) {
    StoreCount(residual + i, LoadCount(residual + i, count) + LoadCount(x + i, count), count);
    const F32 v = LoadCount(residual + i, count);
    sum[chain] = Fma(v, v, sum[chain]);
  });
  Scale<T>(out, residual, weight, n, InverseRms(sum, n, eps), x + n);
}

/// The mean is found first, as the variance of small differences of large numbers demands. Its
/// rounding to float, which the differences would keep, is the mean of the differences and goes out
/// of them and of their squares again.
template <bool kBias, typename T>
MLF_INLINE void LayerNorm(RowOut<T> row, const T* x, const T* weight, const T* bias, int64_t n,
                          double eps) {
  F32 total[kChains] = {Zero(), Zero(), Zero(), Zero()};
  ForLanes(n, [&](int64_t i, int chain, int count) __attribute__((always_inline)) {
    total[chain] = total[chain] + LoadCount(x + i, count);
  });
  const double elements = static_cast<double>(n);
  const F32 mean = Set(static_cast<float>(SumOfChains(total) / elements));
  F32 sum[kChains] = {Zero(), Zero(), Zero(), Zero()},
      squares[kChains] = {Zero(), Zero(), Zero(), Zero()};
  ForLanes(n, [&](int64_t i, int chain, int count) __attribute__((always_inline)) {
    const F32 difference = Keep(LoadCount(x + i, count) - mean, count, 0.f);
    sum[chain] = sum[chain] + difference;
    squares[chain] = Fma(difference, difference, squares[chain]);
  });
  const double rest = SumOfChains(sum) / elements,
               spread = SumOfChains(squares) / elements - rest * rest,
               variance = spread < 0 ? 0 : spread;  // rounding of equal elements; NaN stays
  const F32 scale = Set(static_cast<float>(1.0 / __builtin_sqrt(variance + eps))),
            shift = Set(static_cast<float>(rest));
  WithOut(row, [&]<bool kStream>(T* out) __attribute__((always_inline)) {
    ForLanes(n, [&](int64_t i, int, int count) __attribute__((always_inline)) {
      Prefetch(x + i, n);
      const F32 normal = (LoadCount(x + i, count) - mean - shift) * scale;
      const F32 w = LoadCount(weight + i, count);
      const F32 v = kBias ? Fma(normal, w, LoadCount(bias + i, count)) : normal * w;
      Put<kStream>(out + i, v, count);
    });
  });
}

template <typename T>
MLF_INLINE void ChooseLayerNorm(RowOut<T> out, const T* x, const T* weight, const T* bias,
                                int64_t n, double eps) {
  if (bias == nullptr) return LayerNorm<false>(out, x, weight, bias, n, eps);
  LayerNorm<true>(out, x, weight, bias, n, eps);
}

void RmsNormRow(RowOut<float> out, const float* x, const float* weight, int64_t n, double eps) {
  RmsNorm(out, x, weight, n, eps);
}
void RmsNormRow(RowOut<F16> out, const F16* x, const F16* weight, int64_t n, double eps) {
  RmsNorm(out, x, weight, n, eps);
}
void RmsNormRow(RowOut<BF16> out, const BF16* x, const BF16* weight, int64_t n, double eps) {
  RmsNorm(out, x, weight, n, eps);
}
void AddRmsNormRow(RowOut<float> out, float* residual, const float* x, const float* weight,
                   int64_t n, double eps) {
  AddRmsNorm(out, residual, x, weight, n, eps);
}
void AddRmsNormRow(RowOut<F16> out, F16* residual, const F16* x, const F16* weight, int64_t n,
                   double eps) {
  AddRmsNorm(out, residual, x, weight, n, eps);
}
void AddRmsNormRow(RowOut<BF16> out, BF16* residual, const BF16* x, const BF16* weight, int64_t n,
                   double eps) {
  AddRmsNorm(out, residual, x, weight, n, eps);
}
void LayerNormRow(RowOut<float> out, const float* x, const float* weight, const float* bias,
                  int64_t n, double eps) {
  ChooseLayerNorm(out, x, weight, bias, n, eps);
}
void LayerNormRow(RowOut<F16> out, const F16* x, const F16* weight, const F16* bias, int64_t n,
                  double eps) {
  ChooseLayerNorm(out, x, weight, bias, n, eps);
}
void LayerNormRow(RowOut<BF16> out, const BF16* x, const BF16* weight, const BF16* bias, int64_t n,
                  double eps) {
  ChooseLayerNorm(out, x, weight, bias, n, eps);
}

}  // namespace mlf::MLF_LEVEL
