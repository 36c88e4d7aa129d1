// Gated activations of a row, at every CPU level. Counterparts: activation_simd.cc, activation.cc.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/row_out.h"
#include "base/simd_fn.h"

namespace mlf {

enum class Activation : int { kSilu, kGelu, kGeluTanh };

/// out[i] = activation(gate[i]) * up[i]; out may be gate or up.
MLF_SIMD_FN(activation_mul_row_f32, ActivationMulRow,
            void(RowOut<float> out, const float* gate, const float* up, int64_t n,
                 Activation activation))
MLF_SIMD_FN(activation_mul_row_f16, ActivationMulRow,
            void(RowOut<F16> out, const F16* gate, const F16* up, int64_t n, Activation activation))
MLF_SIMD_FN(activation_mul_row_bf16, ActivationMulRow,
            void(RowOut<BF16> out, const BF16* gate, const BF16* up, int64_t n,
                 Activation activation))

}  // namespace mlf
