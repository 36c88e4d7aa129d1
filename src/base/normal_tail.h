// Φ(−z), the upper tail of the normal distribution, as CPU and CUDA kernels have it. Counterparts:
// simd_math.h, kernels/activation.cu.
#pragma once
#include "base/half.h"

namespace mlf {

// Not by erf, which would cancel. Φ(−z) = e^(−z²/2) R(z), and R(z) (z + 3.5) is a polynomial in
// (z − 3.5) / (z + 3.5), minimax on [0, 14] with error 4e-7.
inline constexpr int kNormalTailTerms = 8;

/// Of that polynomial, the highest power first.
MLF_INLINE_HALF static inline float NormalTailCoefficient(int i) {
  constexpr float kTerms[kNormalTailTerms] = {
      -0.0007740624714642763f, -0.0028982525691390038f, 0.006732641719281673f, 0.01734478399157524f,
      -0.11610561609268188f,   0.3154308497905731f,     -0.5655589699745178f,  0.7444159388542175f};
  return kTerms[i];
}

}  // namespace mlf
