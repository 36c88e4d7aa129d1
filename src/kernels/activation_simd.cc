// Element-wise activations. Counterparts: activation_simd.h, activation.cc.
#include "kernels/activation_simd.h"

#include "base/simd.h"

namespace mlf::MLF_LEVEL {

/// x / (1 + e^−x). Below −88 the numerator stops at −88, so that the quotient stays at −5e−37 where
/// e^−x has reached the end of Exp's range.
MLF_INLINE F32 Silu(F32 x) { return Max(Set(-88.f), x) / (Set(1.f) + Exp(Zero() - x)); }

void SiluMulRow(float* out, const float* gate, const float* up, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Silu(Load(gate + i)) * Load(up + i));
  if (i == n) return;
  const int rest = static_cast<int>(n - i);
  StorePartial(out + i, Silu(LoadPartial(gate + i, rest)) * LoadPartial(up + i, rest), rest);
}

}  // namespace mlf::MLF_LEVEL
