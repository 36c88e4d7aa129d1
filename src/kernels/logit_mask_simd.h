// Blocks of a row of logits under a bitmask, at every CPU level. Counterparts: logit_mask_simd.cc,
// logit_mask.cc.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/simd_fn.h"

namespace mlf {

// A mask starts at the block's first bit: bit i % 32 of word i / 32 allows element i. Null: all.

struct LogitExtremes {
  float any, allowed;  // the largest but NaN; -inf where there is none
  bool has_nan;
};

struct MaskScaling {
  float max;                 // of all logits, for the mass
  float inverse;             // of the temperature, for the mass
  float shift, temperature;  // what is allowed becomes (x - shift) / temperature,
  float least;               // or -inf where that is below
};

struct MaskMass {
  double any, allowed;
};

MLF_SIMD_FN(logit_extremes_f32, FindExtremes,
            void(LogitExtremes* out, const float* x, const uint32_t* mask, int64_t n))
MLF_SIMD_FN(logit_extremes_f16, FindExtremes,
            void(LogitExtremes* out, const F16* x, const uint32_t* mask, int64_t n))
MLF_SIMD_FN(logit_extremes_bf16, FindExtremes,
            void(LogitExtremes* out, const BF16* x, const uint32_t* mask, int64_t n))

/// Sums of softmax weights of all and of the allowed elements; `mask` is not null.
MLF_SIMD_FN(masked_mass_f32, SumMass,
            void(MaskMass* out, const float* x, const uint32_t* mask, int64_t n,
                 const MaskScaling& scaling))
MLF_SIMD_FN(masked_mass_f16, SumMass,
            void(MaskMass* out, const F16* x, const uint32_t* mask, int64_t n,
                 const MaskScaling& scaling))
MLF_SIMD_FN(masked_mass_bf16, SumMass,
            void(MaskMass* out, const BF16* x, const uint32_t* mask, int64_t n,
                 const MaskScaling& scaling))

/// The same, and scales in place. Without a mask `out` is not written: nothing is lost.
MLF_SIMD_FN(mask_and_scale_f32, MaskAndScale,
            void(MaskMass* out, float* x, const uint32_t* mask, int64_t n,
                 const MaskScaling& scaling))
MLF_SIMD_FN(mask_and_scale_f16, MaskAndScale,
            void(MaskMass* out, F16* x, const uint32_t* mask, int64_t n,
                 const MaskScaling& scaling))
MLF_SIMD_FN(mask_and_scale_bf16, MaskAndScale,
            void(MaskMass* out, BF16* x, const uint32_t* mask, int64_t n,
                 const MaskScaling& scaling))

/// The first allowed element that equals `value`, the largest of the allowed ones.
MLF_SIMD_FN(first_allowed_f32, FirstAllowed,
            int64_t(const float* x, const uint32_t* mask, int64_t n, float value))
MLF_SIMD_FN(first_allowed_f16, FirstAllowed,
            int64_t(const F16* x, const uint32_t* mask, int64_t n, float value))
MLF_SIMD_FN(first_allowed_bf16, FirstAllowed,
            int64_t(const BF16* x, const uint32_t* mask, int64_t n, float value))

MLF_SIMD_FN(apply_bitmask_f32, ApplyBitmask, void(float* x, const uint32_t* mask, int64_t n))
MLF_SIMD_FN(apply_bitmask_f16, ApplyBitmask, void(F16* x, const uint32_t* mask, int64_t n))
MLF_SIMD_FN(apply_bitmask_bf16, ApplyBitmask, void(BF16* x, const uint32_t* mask, int64_t n))

}  // namespace mlf
