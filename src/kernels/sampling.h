// Kernels that choose tokens from rows of logits. Counterparts: sampling.cc, ranking.h (how),
// sampling_simd.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// ids[...] int32 = index of the largest of logits [..., n] float32, float16 or bfloat16; the
/// lowest index wins a tie; NaN never wins, and a row of NaN alone gives 0.
using ArgmaxFn = void(TensorView ids, TensorView logits);
inline Kernel<ArgmaxFn> argmax_kernel{"argmax"};

/// The k largest of x [..., n], the largest first, of equals the lowest index; NaN comes last.
using TopKFn = void(TensorView values, TensorView ids, TensorView x, int64_t k);
inline Kernel<TopKFn> top_k_kernel{"top_k"};

/// One token for each row of logits [rows, n] from uniform numbers in [0, 1): temperature, then
/// top_k, top_p and min_p, then the token at which the mass of the best tokens exceeds the uniform
/// part of the mass left. logprobs: of the row's softmax before all that.
using SampleFn = void(TensorView ids, TensorView logprobs, TensorView logits, TensorView uniform,
                      ffi::Optional<TensorView> temperature, ffi::Optional<TensorView> top_k,
                      ffi::Optional<TensorView> top_p, ffi::Optional<TensorView> min_p);
inline Kernel<SampleFn> sample_kernel{"sample"};

}  // namespace mlf
