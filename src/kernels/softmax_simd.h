// Softmax over a block of a row, at every CPU level. Counterparts: softmax_simd.cc, softmax.cc.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/row_out.h"
#include "base/simd_fn.h"

namespace mlf {

/// y = scale * x, or cap * tanh(scale * x / cap) where cap is not 0.
struct Scores {
  float scale;  // of x; divided by cap where there is one
  float cap;
};

/// The largest of a block of scores but for their factor, y: of x with the sign of scale, whose
/// factor is |scale|; of tanh(scale * x), whose factor is the cap, where there is one. And the sum
/// of e^(factor (y - max)). At least the lowest finite float; NaN goes into the sum, not into max.
struct SoftmaxPart {
  float max;
  float sum;
};

enum class SoftmaxForm : int { kProbability, kLogarithm };

/// The part of x[n]. Where e is not null, its n elements get e^(factor (y - max)); it
/// may be x.
MLF_SIMD_FN(softmax_part_f32, PartOf,
            SoftmaxPart(float* e, const float* x, int64_t n, Scores scores))
MLF_SIMD_FN(softmax_part_f16, PartOf, SoftmaxPart(float* e, const F16* x, int64_t n, Scores scores))
MLF_SIMD_FN(softmax_part_bf16, PartOf,
            SoftmaxPart(float* e, const BF16* x, int64_t n, Scores scores))

/// out[i] = e[i] * factor; out may be e.
MLF_SIMD_FN(softmax_scale_f32, ScaleSoftmax,
            void(RowOut<float> out, const float* e, int64_t n, float factor))
MLF_SIMD_FN(softmax_scale_f16, ScaleSoftmax,
            void(RowOut<F16> out, const float* e, int64_t n, float factor))
MLF_SIMD_FN(softmax_scale_bf16, ScaleSoftmax,
            void(RowOut<BF16> out, const float* e, int64_t n, float factor))

/// out[i] = e^(factor (y[i] - max)) * norm, or the logarithm, less norm, max as in SoftmaxPart; out
/// may be x.
MLF_SIMD_FN(softmax_write_f32, WriteSoftmax,
            void(RowOut<float> out, const float* x, int64_t n, Scores scores, float max, float norm,
                 SoftmaxForm form))
MLF_SIMD_FN(softmax_write_f16, WriteSoftmax,
            void(RowOut<F16> out, const F16* x, int64_t n, Scores scores, float max, float norm,
                 SoftmaxForm form))
MLF_SIMD_FN(softmax_write_bf16, WriteSoftmax,
            void(RowOut<BF16> out, const BF16* x, int64_t n, Scores scores, float max, float norm,
                 SoftmaxForm form))

}  // namespace mlf
