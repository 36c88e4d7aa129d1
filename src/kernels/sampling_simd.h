// One row of logits, at every CPU level. Counterparts: sampling_simd.cc, sampling.cc.
#pragma once
#include <cstdint>

#include "base/simd_fn.h"

namespace mlf {

/// The lowest index of the largest of x[n]; NaN is passed over; 0 where nothing else is left.
MLF_SIMD_FN(argmax_row, ArgmaxRow, int64_t(const float* x, int64_t n))

}  // namespace mlf
