// Softmax and its logarithm over the last dimension. Counterparts: softmax.cc, softmax_simd.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// out[r, i] = e^y[i] / sum_j e^y[j] with y = scale * x[r, :], or soft_cap * tanh(scale * x[r, :] /
/// soft_cap) where soft_cap is not 0; float32, float16 or bfloat16, the same for both; out may be
/// x.
using SoftmaxFn = void(TensorView out, TensorView x, double scale, double soft_cap);
inline Kernel<SoftmaxFn> softmax_kernel{"softmax"};

/// The logarithm of it.
inline Kernel<SoftmaxFn> log_softmax_kernel{"log_softmax"};

}  // namespace mlf
