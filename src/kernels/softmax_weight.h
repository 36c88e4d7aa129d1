// Softmax weights and their sums, for *_simd.cc files. Used by sampling_simd.cc and
// logit_mask_simd.cc.
#pragma once
#include "base/simd.h"

namespace mlf::MLF_LEVEL {

constexpr float kLowest = -__builtin_inff();

/// exp((x - max) * inverse) for x up to max, as Exp has it, less what only other x need. 1 where x
/// is max, an infinite one too; 0 for NaN, for -inf and below e^-87.
MLF_INLINE F32 Weight(F32 x, F32 max, F32 inverse) {
  const F32 low = Set(-87.33654f), distance = (x - max) * inverse;
  const F32 weight = ExpWithin(Max(distance, low));  // Max drops the NaN of inf - inf
  return Map<F32>([&](int p) -> NativeF32 {
    const NativeF32 kept = distance.part[p] >= low.part[p] ? weight.part[p] : NativeF32{};
    return x.part[p] == max.part[p] ? NativeF32{} + 1.f : kept;
  });
}

/// Sums of lanes that keep what each addition rounds away (Knuth, TAOCP 2, 4.2.2, theorem B), so
/// that sums of the same weights in another order agree to 1e-12.
struct LaneSums {
  F32 sum, lost;
};

MLF_INLINE void Add(LaneSums& sums, F32 x) {
  const F32 total = sums.sum + x, added = total - sums.sum;
  sums.lost = sums.lost + ((sums.sum - (total - added)) + (x - added));
  sums.sum = total;
}

MLF_INLINE double Total(const LaneSums& sums) {
  float sum[kLanes], lost[kLanes];
  Store(sum, sums.sum);
  Store(lost, sums.lost);
  double total = 0;
  for (int i = 0; i < kLanes; ++i) total += static_cast<double>(sum[i]) + lost[i];
  return total;
}

}  // namespace mlf::MLF_LEVEL
