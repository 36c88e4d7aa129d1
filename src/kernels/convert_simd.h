// Rows between float and 16 bits, and into pages, at every CPU level. Counterparts:
// convert_simd.cc, convert.h.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/simd_fn.h"

namespace mlf {

/// out[n] = x[n], rounded to nearest even.
MLF_SIMD_FN(narrow_to_f16, NarrowToF16, void(F16* out, const float* x, int64_t n))
MLF_SIMD_FN(narrow_to_bf16, NarrowToBF16, void(BF16* out, const float* x, int64_t n))

/// out[n] = x[n].
MLF_SIMD_FN(widen_f16, WidenF16, void(float* out, const F16* x, int64_t n))
MLF_SIMD_FN(widen_bf16, WidenBF16, void(float* out, const BF16* x, int64_t n))

/// out[j, i] = x[i * stride + j] for i < n <= 32, j < dims; out [dims, 32].
MLF_SIMD_FN(transpose_f32, TransposeF32,
            void(float* out, const float* x, int64_t stride, int64_t n, int64_t dims))
MLF_SIMD_FN(transpose_f16, TransposeF16,
            void(float* out, const F16* x, int64_t stride, int64_t n, int64_t dims))
MLF_SIMD_FN(transpose_bf16, TransposeBF16,
            void(float* out, const BF16* x, int64_t stride, int64_t n, int64_t dims))

}  // namespace mlf
