// Gated activations of a row. Counterparts: activation_simd.h, activation.cc.
#include "kernels/activation_simd.h"

#include "base/simd_math.h"
#include "base/simd_row.h"

namespace mlf::MLF_LEVEL {

// Each is its limit, not NaN, at −inf: where the result is below 1e-35 it is 0, so that a large
// factor makes nothing of it.

/// y, or 0 where x is below `least`.
MLF_INLINE F32 ZeroBelow(F32 least, F32 x, F32 y) {
  return Map<F32>(
      [&](int p) -> NativeF32 { return x.part[p] < least.part[p] ? NativeF32{} : y.part[p]; });
}

/// x / (1 + e^−x).
MLF_INLINE F32 Silu(F32 x) {
  const F32 least = Set(-88.f), bounded = Max(least, x);
  return ZeroBelow(least, x, bounded / (Set(1.f) + Exp2(bounded * Set(-1.442695041f))));
}

/// x Φ(x), which is x − x Φ(−x) where x is positive.
MLF_INLINE F32 Gelu(F32 x) {
  const F32 z = Min(Set(13.2f), Abs(x));
  return ZeroBelow(Set(-13.2f), x, Max(Zero(), x) - z * NormalTail(z));
}

/// x (1 + tanh u) / 2 with u = sqrt(2/π) (x + 0.044715 x³), as x / (1 + e^−2u), which does not
/// cancel for negative x.
MLF_INLINE F32 GeluTanh(F32 x) {
  const F32 least = Set(-10.f), bounded = Max(least, x);
  // −2u / x / ln 2: at −10 the exponent is 126.
  const F32 slope = Fma(bounded * bounded, Set(-1.029432396e-1f), Set(-2.302208198f));
  return ZeroBelow(least, x, bounded / (Set(1.f) + Exp2(bounded * slope)));
}

constexpr int64_t kAhead = 1024;  // elements

template <typename T, typename Fn>
MLF_INLINE void MulRow(RowOut<T> row, const T* gate, const T* up, int64_t n, Fn activation) {
  WithOut(row, [&]<bool kStream>(T* out) __attribute__((always_inline)) {
    ForLanes(n, [&](int64_t i, int, int count) __attribute__((always_inline)) {
      Prefetch(gate + i, kAhead);
      Prefetch(up + i, kAhead);
      const F32 v = activation(LoadCount(gate + i, count)) * LoadCount(up + i, count);
      Put<kStream>(out + i, v, count);
    });
  });
}

template <typename T>
MLF_INLINE void Choose(RowOut<T> out, const T* gate, const T* up, int64_t n,
                       Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return MulRow(out, gate, up, n, [](F32 x) { return Silu(x); });
    case Activation::kGelu:
      return MulRow(out, gate, up, n, [](F32 x) { return Gelu(x); });
    case Activation::kGeluTanh:
      return MulRow(out, gate, up, n, [](F32 x) { return GeluTanh(x); });
  }
}

void ActivationMulRow(RowOut<float> out, const float* gate, const float* up, int64_t n,
                      Activation activation) {
  Choose(out, gate, up, n, activation);
}
void ActivationMulRow(RowOut<F16> out, const F16* gate, const F16* up, int64_t n,
                      Activation activation) {
  Choose(out, gate, up, n, activation);
}
void ActivationMulRow(RowOut<BF16> out, const BF16* gate, const BF16* up, int64_t n,
                      Activation activation) {
  Choose(out, gate, up, n, activation);
}

}  // namespace mlf::MLF_LEVEL
