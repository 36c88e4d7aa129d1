// One row of a normalisation, at every CPU level. Counterparts: norm_simd.cc, norm.cc.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/row_out.h"
#include "base/simd_fn.h"

namespace mlf {

MLF_SIMD_FN(rms_norm_row_f32, RmsNormRow,
            void(RowOut<float> out, const float* x, const float* weight, int64_t n, double eps))
MLF_SIMD_FN(rms_norm_row_f16, RmsNormRow,
            void(RowOut<F16> out, const F16* x, const F16* weight, int64_t n, double eps))
MLF_SIMD_FN(rms_norm_row_bf16, RmsNormRow,
            void(RowOut<BF16> out, const BF16* x, const BF16* weight, int64_t n, double eps))

MLF_SIMD_FN(add_rms_norm_row_f32, AddRmsNormRow,
            void(RowOut<float> out, float* residual, const float* x, const float* weight, int64_t n,
                 double eps))
MLF_SIMD_FN(add_rms_norm_row_f16, AddRmsNormRow,
            void(RowOut<F16> out, F16* residual, const F16* x, const F16* weight, int64_t n,
                 double eps))
MLF_SIMD_FN(add_rms_norm_row_bf16, AddRmsNormRow,
            void(RowOut<BF16> out, BF16* residual, const BF16* x, const BF16* weight, int64_t n,
                 double eps))

/// bias may be null.
MLF_SIMD_FN(layer_norm_row_f32, LayerNormRow,
            void(RowOut<float> out, const float* x, const float* weight, const float* bias,
                 int64_t n, double eps))
MLF_SIMD_FN(layer_norm_row_f16, LayerNormRow,
            void(RowOut<F16> out, const F16* x, const F16* weight, const F16* bias, int64_t n,
                 double eps))
MLF_SIMD_FN(layer_norm_row_bf16, LayerNormRow,
            void(RowOut<BF16> out, const BF16* x, const BF16* weight, const BF16* bias, int64_t n,
                 double eps))

}  // namespace mlf
