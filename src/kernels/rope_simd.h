// Angles and one head of a rotary embedding, at every CPU level. Counterparts: rope_simd.cc,
// rope.cc.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/simd_fn.h"

namespace mlf {

/// magnitude times cosine and sine, to 2e-7, of `pairs` angles: `position` times `turns` turns. The
/// product is reduced in double: the angles are those of float64.
MLF_SIMD_FN(rope_angles_row, RopeAngles,
            void(float* cos, float* sin, double position, const double* turns, int64_t pairs,
                 float magnitude))

/// Rotates the `pairs` pairs of x[2 * pairs] in place by the angles of cos[pairs], sin[pairs].
MLF_SIMD_FN(rope_neox_head_f32, RopeNeoxHead,
            void(float* x, const float* cos, const float* sin, int64_t pairs))
MLF_SIMD_FN(rope_neox_head_f16, RopeNeoxHead,
            void(F16* x, const float* cos, const float* sin, int64_t pairs))
MLF_SIMD_FN(rope_neox_head_bf16, RopeNeoxHead,
            void(BF16* x, const float* cos, const float* sin, int64_t pairs))

MLF_SIMD_FN(rope_interleaved_head_f32, RopeInterleavedHead,
            void(float* x, const float* cos, const float* sin, int64_t pairs))
MLF_SIMD_FN(rope_interleaved_head_f16, RopeInterleavedHead,
            void(F16* x, const float* cos, const float* sin, int64_t pairs))
MLF_SIMD_FN(rope_interleaved_head_bf16, RopeInterleavedHead,
            void(BF16* x, const float* cos, const float* sin, int64_t pairs))

}  // namespace mlf
