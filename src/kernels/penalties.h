// Penalties for tokens that were seen. Counterpart: penalties.cc.
#pragma once
#include "base/half.h"
#include "base/kernel.h"

namespace mlf {

/// Per row of logits [rows, n], in place, for each token of tokens int32 [rows, n_seen] (-1: none):
/// positive logits are divided by repetition and others multiplied, once; frequency is subtracted
/// per occurrence, presence once.
using ApplyPenaltiesFn = void(TensorView logits, TensorView tokens,
                              ffi::Optional<TensorView> repetition,
                              ffi::Optional<TensorView> frequency,
                              ffi::Optional<TensorView> presence);
inline Kernel<ApplyPenaltiesFn> apply_penalties_kernel{"apply_penalties"};

/// One logit of a token that was seen `count` times.
MLF_HOST_DEVICE inline double Penalized(double logit, int count, double repetition,
                                        double frequency, double presence) {
  const double scaled = logit > 0 ? logit / repetition : logit * repetition;
  return scaled - count * frequency - presence;
}

}  // namespace mlf
