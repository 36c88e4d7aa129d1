// Softmax over a block of a row. Counterparts: softmax_simd.h, softmax.cc.
#include "kernels/softmax_simd.h"

#include "base/simd_math.h"
#include "base/simd_row.h"

namespace mlf::MLF_LEVEL {

constexpr float kLowestFinite = -3.402823466e38f;

MLF_INLINE float SignOf(Scores scores) { return scores.scale < 0 ? -1.f : 1.f; }

/// The score of x less the largest one, but for a factor, which is put on later, so that the best
/// element's score is 0 to the bit, however large it was. (The product with a sign is exact.)
template <bool kCapped>
MLF_INLINE F32 Below(F32 x, Scores scores, F32 max) {
  if constexpr (kCapped) return Tanh(x * Set(scores.scale)) - max;
  return Fma(x, Set(SignOf(scores)), Zero() - max);
}

/// That factor, to be a power of `base_log`: of e for 1, of 2 for log2(e).
template <bool kCapped>
MLF_INLINE F32 Factor(Scores scores, float base_log) {
  const float factor = (kCapped ? scores.cap : scores.scale * SignOf(scores)) * base_log;
  return Set(factor > -kLowestFinite ? -kLowestFinite : factor);  // 0 times it must stay 0
}
constexpr float kLog2E = 1.442695041f;

/// The cap rises with its argument: the largest score is that of the largest scaled x.
template <bool kCapped, typename T>
MLF_INLINE float LargestUnscaled(const T* x, int64_t n, Scores scores) {
  const F32 scale = Set(kCapped ? scores.scale : SignOf(scores));
  F32 best[kChains] = {Set(kLowestFinite), Set(kLowestFinite), Set(kLowestFinite),
                       Set(kLowestFinite)};
  ForLanes(n, [&](int64_t i, int chain, int count) __attribute__((always_inline)) {
    best[chain] = Max(Keep(LoadCount(x + i, count) * scale, count, kLowestFinite), best[chain]);
  });
  const float largest = ReduceMax(Max(Max(best[0], best[1]), Max(best[2], best[3])));
  return kCapped ? ReduceMax(Tanh(Set(largest))) : largest;
}

template <bool kCapped, bool kStore, typename T>
MLF_INLINE SoftmaxPart Part(float* e, const T* x, int64_t n, Scores scores) {
  const float largest = LargestUnscaled<kCapped>(x, n, scores);
  const F32 max = Set(largest), factor = Factor<kCapped>(scores, kLog2E);
  F32 sum[kChains] = {Zero(), Zero(), Zero(), Zero()};
  ForLanes(n, [&](int64_t i, int chain, int count) __attribute__((always_inline)) {
    Prefetch(x + i, n);
    const F32 v = Exp2(Below<kCapped>(LoadCount(x + i, count), scores, max) * factor);
    if constexpr (kStore) StoreCount(e + i, v, count);
    sum[chain] = sum[chain] + Keep(v, count, 0.f);
  });
  return {largest, SumOfChains(sum)};
}

template <typename T>
MLF_INLINE SoftmaxPart ChoosePart(float* e, const T* x, int64_t n, Scores scores) {
  if (scores.cap == 0) {
    return e == nullptr ? Part<false, false>(e, x, n, scores) : Part<false, true>(e, x, n, scores);
  }
  return e == nullptr ? Part<true, false>(e, x, n, scores) : Part<true, true>(e, x, n, scores);
}

template <typename T>
MLF_INLINE void Scale(RowOut<T> row, const float* e, int64_t n, float factor) {
  const F32 f = Set(factor);
  WithOut(row, [&]<bool kStream>(T* out) __attribute__((always_inline)) {
    ForLanes(n, [&](int64_t i, int, int count) __attribute__((always_inline)) {
      Put<kStream>(out + i, LoadCount(e + i, count) * f, count);
    });
  });
}

template <bool kCapped, SoftmaxForm kForm, typename T>
MLF_INLINE void Write(RowOut<T> row, const T* x, int64_t n, Scores scores, F32 max, F32 norm) {
  constexpr bool kPower = kForm == SoftmaxForm::kProbability;
  const F32 factor = Factor<kCapped>(scores, kPower ? kLog2E : 1.f);
  WithOut(row, [&]<bool kStream>(T* out) __attribute__((always_inline)) {
    ForLanes(n, [&](int64_t i, int, int count) __attribute__((always_inline)) {
      const F32 below = Below<kCapped>(LoadCount(x + i, count), scores, max) * factor;
      Put<kStream>(out + i, kPower ? Exp2(below) * norm : below - norm, count);
    });
  });
}

template <typename T>
MLF_INLINE void ChooseWrite(RowOut<T> out, const T* x, int64_t n, Scores scores, float max,
                            float norm, SoftmaxForm form) {
  constexpr SoftmaxForm kProbability = SoftmaxForm::kProbability,
                        kLogarithm = SoftmaxForm::kLogarithm;
  const F32 m = Set(max), s = Set(norm);
  if (form == kProbability) {
    if (scores.cap == 0) return Write<false, kProbability>(out, x, n, scores, m, s);
    return Write<true, kProbability>(out, x, n, scores, m, s);
  }
  if (scores.cap == 0) return Write<false, kLogarithm>(out, x, n, scores, m, s);
  Write<true, kLogarithm>(out, x, n, scores, m, s);
}

SoftmaxPart PartOf(float* e, const float* x, int64_t n, Scores scores) {
  return ChoosePart(e, x, n, scores);
}
SoftmaxPart PartOf(float* e, const F16* x, int64_t n, Scores scores) {
  return ChoosePart(e, x, n, scores);
}
SoftmaxPart PartOf(float* e, const BF16* x, int64_t n, Scores scores) {
  return ChoosePart(e, x, n, scores);
}

void ScaleSoftmax(RowOut<float> out, const float* e, int64_t n, float factor) {
  Scale(out, e, n, factor);
}
void ScaleSoftmax(RowOut<F16> out, const float* e, int64_t n, float factor) {
  Scale(out, e, n, factor);
}
void ScaleSoftmax(RowOut<BF16> out, const float* e, int64_t n, float factor) {
  Scale(out, e, n, factor);
}

void WriteSoftmax(RowOut<float> out, const float* x, int64_t n, Scores scores, float max,
                  float norm, SoftmaxForm form) {
  ChooseWrite(out, x, n, scores, max, norm, form);
}
void WriteSoftmax(RowOut<F16> out, const F16* x, int64_t n, Scores scores, float max, float norm,
                  SoftmaxForm form) {
  ChooseWrite(out, x, n, scores, max, norm, form);
}
void WriteSoftmax(RowOut<BF16> out, const BF16* x, int64_t n, Scores scores, float max, float norm,
                  SoftmaxForm form) {
  ChooseWrite(out, x, n, scores, max, norm, form);
}

}  // namespace mlf::MLF_LEVEL
