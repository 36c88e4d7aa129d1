// Kernels over rows of logits. Counterparts: sampling.cc, sampling_simd.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// ids[r] int32 = index of the largest of logits float32 [rows, n]; the lowest index wins a tie;
/// NaN never wins, and a row of NaN alone gives 0.
using ArgmaxFn = void(TensorView ids, TensorView logits);
inline Kernel<ArgmaxFn> argmax_kernel{"argmax"};

}  // namespace mlf
