// Element-wise activations, at every CPU level. Counterparts: activation_simd.cc, activation.cc.
#pragma once
#include <cstdint>

#include "base/simd_fn.h"

namespace mlf {

/// out[i] = silu(gate[i]) * up[i]; out may be gate or up.
MLF_SIMD_FN(silu_mul_row, SiluMulRow,
            void(float* out, const float* gate, const float* up, int64_t n))

}  // namespace mlf
