// One row of logits, at every CPU level. Counterparts: sampling_simd.cc, sampling.cc, ranking.cc.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/simd_fn.h"

namespace mlf {

/// The lowest index of the largest of x[n]; NaN is passed over; 0 where nothing else is left.
MLF_SIMD_FN(argmax_row, ArgmaxRow, int64_t(const float* x, int64_t n))

MLF_SIMD_FN(widen_f16, Widen, void(float* out, const F16* x, int64_t n))
MLF_SIMD_FN(widen_bf16, Widen, void(float* out, const BF16* x, int64_t n))

/// Maxima of x[n] but NaN by groups: of each chunk of 16 * group elements 16 maxima, the i-th that
/// of the chunk's elements i, i + 16, i + 32 …; the last chunk may be short.
inline constexpr int64_t kGroupLanes = 16;
MLF_SIMD_FN(group_maxima, GroupMaxima,
            void(float* maxima, const float* x, int64_t n, int64_t group))

/// The k-th largest (k from 1) of x[n] without NaN, n a multiple of 16.
MLF_SIMD_FN(kth_largest, KthLargest, float(const float* x, int64_t n, int64_t k))

/// Indices of the elements of x[n] from `low` to `high`, rising; returns how many.
MLF_SIMD_FN(gather_between, GatherBetween,
            int64_t(int32_t* ids, const float* x, int64_t n, float low, float high))

/// out = exp((x - max) * inverse), 1 where x is max, 0 for NaN and below e^-87.
MLF_SIMD_FN(softmax_weights, SoftmaxWeights,
            void(float* out, const float* x, int64_t n, float max, float inverse))

/// Sum of the weights of the elements that are `least` or more.
MLF_SIMD_FN(softmax_mass, SoftmaxMass,
            double(const float* x, int64_t n, float max, float inverse, float least))

// Floats ordered as integers, the largest first: bins of keys are ranges of floats, and 11 bits of
// a key are sign, exponent and two bits of the mantissa.
inline constexpr int kBinShift = 21;
inline constexpr int64_t kBins = int64_t{1} << (32 - kBinShift);
struct MassBin {
  double mass;
  int64_t count;
};

/// Adds weights and counts of x[n] to the bins of their keys; -0 counts as 0.
MLF_SIMD_FN(add_to_bins, AddToBins,
            void(MassBin* bins, const float* x, int64_t n, float max, float inverse))

}  // namespace mlf
