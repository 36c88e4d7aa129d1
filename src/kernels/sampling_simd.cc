// One row of logits. Counterparts: sampling_simd.h, sampling.cc.
#include "kernels/sampling_simd.h"

#include "base/simd.h"

namespace mlf::MLF_LEVEL {

constexpr float kLowest = -__builtin_inff();

/// The largest of x[n] but NaN; Max keeps its second argument where the first is NaN.
MLF_INLINE float Largest(const float* x, int64_t n) {
  constexpr int kChains = 4;
  F32 best[kChains] = {Set(kLowest), Set(kLowest), Set(kLowest), Set(kLowest)};
  int64_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) best[c] = Max(Load(x + i + c * kLanes), best[c]);
  }
  float largest = ReduceMax(Max(Max(best[0], best[1]), Max(best[2], best[3])));
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

int64_t ArgmaxRow(const float* x, int64_t n) {
  constexpr int64_t kStep = 256;  // a block without the value costs no branch per element
  const float largest = Largest(x, n);
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    int hits = 0;
    for (int64_t j = 0; j < kStep; ++j) hits += x[i + j] == largest;
    if (hits != 0) break;
  }
  for (; i < n; ++i) {
    if (x[i] == largest) return i;
  }
  return 0;
}

}  // namespace mlf::MLF_LEVEL
