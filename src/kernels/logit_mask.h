// Token bitmasks over rows of logits. Counterparts: logit_mask.cc, logit_mask_simd.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// What became of a row.
enum MaskStatus : int32_t {
  kMaskOk = 0,
  kMaskEmpty = 1,         // the mask leaves no token whose logit is above -inf
  kMaskBadLogits = 2,     // a NaN among the logits, or all of them -inf
  kMaskBadParameter = 3,  // on CUDA, where an op reads no parameters; the CPU refuses them
};

/// Per row of logits [rows, n], in place: tokens whose bit is 0 in their row of bitmask int32
/// [m, ceil(n / 32) or more] become -inf; the others are divided by the temperature (below 1e-4:
/// all but the best, the lowest id of equals, become -inf); then those below the best by more than
/// -ln_min_p become -inf. mass = softmax mass at the temperature (1 below 1e-4) of the tokens that
/// the mask allows; status: MaskStatus. mask_rows: row of the bitmask, -1 for none; row r without.
using MaskLogitsFn = void(TensorView mass, TensorView status, TensorView logits,
                          ffi::Optional<TensorView> bitmask, ffi::Optional<TensorView> mask_rows,
                          ffi::Optional<TensorView> temperature,
                          ffi::Optional<TensorView> ln_min_p);
inline Kernel<MaskLogitsFn> mask_logits_kernel{"mask_logits"};

/// Tokens whose bit is 0 become -inf.
using ApplyTokenBitmaskFn = void(TensorView logits, TensorView bitmask,
                                 ffi::Optional<TensorView> mask_rows);
inline Kernel<ApplyTokenBitmaskFn> apply_token_bitmask_kernel{"apply_token_bitmask"};

}  // namespace mlf
