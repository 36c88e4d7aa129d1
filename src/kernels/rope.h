// Rotary position embedding (Su et al., arXiv:2104.09864). Counterparts: rope.cc, rope_simd.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// cos_sin[t, 0, i] = cos(a), cos_sin[t, 1, i] = sin(a) with a = position[t] * freq_scale *
/// base^(−2i / rotary_dims) / factor[i], computed in double. cos_sin float32 [tokens, 2,
/// rotary_dims / 2]; positions int32 [tokens]; freq_factors float32 [rotary_dims / 2] or a view
/// whose data is null.
using RopeAnglesFn = void(TensorView cos_sin, TensorView positions, TensorView freq_factors,
                          double base, double freq_scale);
inline Kernel<RopeAnglesFn> rope_angles_kernel{"rope_angles"};

/// Rotates the first rotary_dims of every head of x float32 [tokens, heads, head_dim] in place.
/// Pair i is (x[2i], x[2i + 1]) when interleaved, else (x[i], x[i + rotary_dims / 2]) (NeoX).
using RopeRotateFn = void(TensorView x, TensorView cos_sin, bool interleaved);
inline Kernel<RopeRotateFn> rope_rotate_kernel{"rope_rotate"};

/// Both in one, for q [tokens, heads, head_dim] and k [tokens, key_heads, head_dim] of float32,
/// float16 or bfloat16; positions int32 or int64. Pairs up to ramp_low keep their frequency, those
/// from ramp_high on have freq_scale times it, those between a mean that moves linearly; sine and
/// cosine are multiplied by magnitude.
using RopeFn = void(TensorView q, TensorView k, TensorView positions, TensorView freq_factors,
                    int64_t rotary_dims, bool interleaved, double base, double freq_scale,
                    double ramp_low, double ramp_high, double magnitude);
inline Kernel<RopeFn> rope_kernel{"rope"};

}  // namespace mlf
