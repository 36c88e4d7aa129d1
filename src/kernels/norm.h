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

/// out = (x - mean) / sqrt(variance + eps) * weight + bias; bias may be a view whose data is null;
/// out may be x.
using LayerNormFn = void(TensorView out, TensorView x, TensorView weight, TensorView bias,
                         double eps);
inline Kernel<LayerNormFn> layer_norm_kernel{"layer_norm"};

}  // namespace mlf
