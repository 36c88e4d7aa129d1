// Blocks of a row of logits under a bitmask. Counterparts: logit_mask_simd.h, logit_mask.cc.
#include "kernels/logit_mask_simd.h"

#include "base/simd.h"
#include "kernels/softmax_weight.h"

namespace mlf::MLF_LEVEL {

constexpr int kWordBits = 32;  // two vectors of lanes

/// Lane i holds bit i.
MLF_INLINE I32 LaneBits() {
  return Map<I32>([](int p) {
    NativeI32 bits{};
    for (int i = 0; i < kWidth; ++i) bits[i] = 1 << (p * kWidth + i);
    return bits;
  });
}

/// The lanes of x whose bit of `word` is set, the others of `other`.
MLF_INLINE F32 Allowed(F32 x, F32 other, uint32_t word, [[maybe_unused]] I32 lane_bits) {
#if defined(__AVX512F__)
  return {{_mm512_mask_blend_ps(static_cast<__mmask16>(word), other.part[0], x.part[0])}};
#else
  return Map<F32>([&](int p) -> NativeF32 {
    return (lane_bits.part[p] & static_cast<int32_t>(word)) != 0 ? x.part[p] : other.part[p];
  });
#endif
}

/// Calls fn(i, chain, x, word, count) for every 16 elements, with their bits lowest in `word`; the
/// lanes behind `count` are -inf.
template <typename T, typename Fn>
MLF_INLINE void ForMasked(const T* x, const uint32_t* mask, int64_t n, Fn fn) {
  int64_t i = 0;
  for (; i + kWordBits <= n; i += kWordBits) {
    const uint32_t word = mask == nullptr ? ~0u : mask[i / kWordBits];
    fn(i, 0, Load(x + i), word, kLanes);
    fn(i + kLanes, 1, Load(x + i + kLanes), word >> kLanes, kLanes);
  }
  uint32_t word = mask == nullptr || i == n ? ~0u : mask[i / kWordBits];
  for (; i < n; i += kLanes, word >>= kLanes) {
    const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    fn(i, 0, LoadPartial(x + i, count, kLowest), word, count);
  }
}

template <typename T>
MLF_INLINE void StoreCount(T* p, F32 v, int count) {
  if (count == kLanes) return Store(p, v);
  StorePartial(p, v, count);
}

template <typename T>
MLF_INLINE void Extremes(LogitExtremes* out, const T* x, const uint32_t* mask, int64_t n) {
  const I32 bits = LaneBits();
  const F32 lowest = Set(kLowest);
  F32 any[2] = {lowest, lowest}, allowed[2] = {lowest, lowest};
  I32 nan = FloatToBits(Zero());
  ForMasked(x, mask, n,
            [&](int64_t, int chain, F32 v, uint32_t word, int) __attribute__((always_inline)) {
              any[chain] = Max(v, any[chain]);
              allowed[chain] = Max(Allowed(v, lowest, word, bits), allowed[chain]);
              nan = Map<I32>([&](int p) { return nan.part[p] | (v.part[p] != v.part[p]); });
            });
  out->any = ReduceMax(Max(any[0], any[1]));
  out->allowed = ReduceMax(Max(allowed[0], allowed[1]));
  int32_t lanes[kLanes];
  std::memcpy(lanes, &nan, sizeof lanes);
  out->has_nan = false;
  for (const int32_t lane : lanes) out->has_nan |= lane != 0;
}

/// What becomes of allowed logits, before those that are not become -inf.
MLF_INLINE F32 Scaled(F32 x, const MaskScaling& s) {
  const F32 scaled = (x - Set(s.shift)) / Set(s.temperature), least = Set(s.least);
  return Map<F32>([&](int p) -> NativeF32 {
    return scaled.part[p] >= least.part[p] ? scaled.part[p] : NativeF32{} + kLowest;
  });
}

/// Weights are summed in steps, so that few additions round: a step's 16 to a lane, then the steps
/// with what their additions round away.
template <bool kWrite, typename T, typename Target>
MLF_INLINE void WeighAll(MaskMass* out, Target* target, const T* x, const uint32_t* mask, int64_t n,
                         const MaskScaling& s) {
  constexpr int64_t kStep = 512;
  const I32 bits = LaneBits();
  const F32 lowest = Set(kLowest), max = Set(s.max), inverse = Set(s.inverse);
  LaneSums any{Zero(), Zero()}, allowed{Zero(), Zero()};
  for (int64_t at = 0; at < n; at += kStep) {
    F32 any_step[2] = {Zero(), Zero()}, allowed_step[2] = {Zero(), Zero()};
    ForMasked(x + at, mask + at / kWordBits, n - at < kStep ? n - at : kStep,
              [&](int64_t i, int chain, F32 v, uint32_t word, int count)
                  __attribute__((always_inline)) {
                    const F32 weight = Weight(v, max, inverse);
                    any_step[chain] = any_step[chain] + weight;
                    allowed_step[chain] = allowed_step[chain] + Allowed(weight, Zero(), word, bits);
                    if constexpr (kWrite) {
                      StoreCount(target + at + i, Allowed(Scaled(v, s), lowest, word, bits), count);
                    }
                  });
    Add(any, any_step[0] + any_step[1]);
    Add(allowed, allowed_step[0] + allowed_step[1]);
  }
  *out = {Total(any), Total(allowed)};
}

template <typename T>
MLF_INLINE void Scale(MaskMass* out, T* x, const uint32_t* mask, int64_t n, const MaskScaling& s) {
  if (mask != nullptr) return WeighAll<true>(out, x, x, mask, n, s);
  ForMasked(x, mask, n,
            [&](int64_t i, int, F32 v, uint32_t, int count)
                __attribute__((always_inline)) { StoreCount(x + i, Scaled(v, s), count); });
}

template <typename T>
MLF_INLINE int64_t First(const T* x, const uint32_t* mask, int64_t n, float value) {
  constexpr int64_t kStep = 512;
  const I32 bits = LaneBits();
  const F32 lowest = Set(kLowest);
  for (int64_t at = 0; at < n; at += kStep) {
    const uint32_t* words = mask == nullptr ? nullptr : mask + at / kWordBits;
    const int64_t count = n - at < kStep ? n - at : kStep;
    F32 best = lowest;
    ForMasked(x + at, words, count,
              [&](int64_t, int, F32 v, uint32_t word, int) __attribute__((always_inline)) {
                best = Max(Allowed(v, lowest, word, bits), best);
              });
    if (ReduceMax(best) != value) continue;
    for (int64_t i = 0; i < count; ++i) {
      const bool allowed = words == nullptr || (words[i / kWordBits] >> (i % kWordBits) & 1) != 0;
      float lane[kLanes];
      Store(lane, LoadPartial(x + at + i, 1));
      if (allowed && lane[0] == value) return at + i;
    }
  }
  return 0;
}

template <typename T>
MLF_INLINE void Apply(T* x, const uint32_t* mask, int64_t n) {
  const I32 bits = LaneBits();
  const F32 lowest = Set(kLowest);
  ForMasked(x, mask, n,
            [&](int64_t i, int, F32 v, uint32_t word, int count) __attribute__((always_inline)) {
              StoreCount(x + i, Allowed(v, lowest, word, bits), count);
            });
}

#define MLF_MASK_FUNCTIONS(T)                                                          \
  void FindExtremes(LogitExtremes* out, const T* x, const uint32_t* mask, int64_t n) { \
    Extremes(out, x, mask, n);                                                         \
  }                                                                                    \
  void SumMass(MaskMass* out, const T* x, const uint32_t* mask, int64_t n,             \
               const MaskScaling& scaling) {                                           \
    WeighAll<false>(out, static_cast<T*>(nullptr), x, mask, n, scaling);               \
  }                                                                                    \
  void MaskAndScale(MaskMass* out, T* x, const uint32_t* mask, int64_t n,              \
                    const MaskScaling& scaling) {                                      \
    Scale(out, x, mask, n, scaling);                                                   \
  }                                                                                    \
  int64_t FirstAllowed(const T* x, const uint32_t* mask, int64_t n, float value) {     \
    return First(x, mask, n, value);                                                   \
  }                                                                                    \
  void ApplyBitmask(T* x, const uint32_t* mask, int64_t n) { Apply(x, mask, n); }

MLF_MASK_FUNCTIONS(float)
MLF_MASK_FUNCTIONS(F16)
MLF_MASK_FUNCTIONS(BF16)

}  // namespace mlf::MLF_LEVEL
