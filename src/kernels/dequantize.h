// Weights of any format as floats, and float32 as Q8_0. Counterparts: dequantize.cc, quantize.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// out[rows, cols] float32, float16 or bfloat16 = weight[rows, row_bytes] uint8 of a format.
using DequantizeFn = void(TensorView out, TensorView weight, int64_t format);
inline Kernel<DequantizeFn> dequantize_kernel{"dequantize"};

/// out[rows, cols / 32 * 34] uint8 = x[rows, cols], float32, float16 or bfloat16, as Q8_0.
using QuantizeQ8Fn = void(TensorView out, TensorView x);
inline Kernel<QuantizeQ8Fn> quantize_q8_0_kernel{"quantize_q8_0"};

}  // namespace mlf
