// Gated activations, element by element. Counterparts: activation.cc, activation_simd.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// out = silu(gate) * up, silu(x) = x / (1 + exp(−x)); float32, float16 or bfloat16, the same for
/// all; same shape; out may be gate or up.
using SiluMulFn = void(TensorView out, TensorView gate, TensorView up);
inline Kernel<SiluMulFn> silu_mul_kernel{"silu_mul"};

/// The same with gelu(x) = x Φ(x), or its approximation x (1 + tanh(sqrt(2/π) (x + 0.044715 x³))) /
/// 2.
using GeluMulFn = void(TensorView out, TensorView gate, TensorView up, bool approximate);
inline Kernel<GeluMulFn> gelu_mul_kernel{"gelu_mul"};

}  // namespace mlf
