// Normalisation over the last dimension. Counterparts: norm.cc, norm_simd.cc, norm.cu.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// out[t, d] = x[t, d] * weight[d] / sqrt(mean_d(x[t, :]^2) + eps), accumulated in float; float32,
/// float16 or bfloat16, the same for all; out may be x.
using RmsNormFn = void(TensorView out, TensorView x, TensorView weight, double eps);
inline Kernel<RmsNormFn> rms_norm_kernel{"rms_norm"};

/// residual += x, then out = rms_norm(residual, weight).
using AddRmsNormFn = void(TensorView out, TensorView residual, TensorView x, TensorView weight,
                          double eps);
inline Kernel<AddRmsNormFn> add_rms_norm_kernel{"add_rms_norm"};

}  // namespace mlf
