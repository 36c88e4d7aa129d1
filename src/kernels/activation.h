// Element-wise activations. Counterparts: activation.cc, activation_simd.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// out = silu(gate) * up, silu(x) = x / (1 + exp(−x)); float32, same shape; out may be gate or up.
using SiluMulFn = void(TensorView out, TensorView gate, TensorView up);
inline Kernel<SiluMulFn> silu_mul_kernel{"silu_mul"};

}  // namespace mlf
