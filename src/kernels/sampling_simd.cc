// One row of logits. Counterparts: sampling_simd.h, sampling.cc, ranking.cc.
#include "kernels/sampling_simd.h"

#include "base/simd.h"
#include "kernels/softmax_weight.h"

namespace mlf::MLF_LEVEL {

constexpr int kChains = 4;

/// The largest of x[n] but NaN; Max keeps its second argument where the first is NaN.
MLF_INLINE float Largest(const float* x, int64_t n) {
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

template <typename T>
MLF_INLINE void WidenAll(float* out, const T* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(x + i));
  if (i < n) StorePartial(out + i, LoadPartial(x + i, static_cast<int>(n - i)), n - i);
}
void Widen(float* out, const F16* x, int64_t n) { WidenAll(out, x, n); }
void Widen(float* out, const BF16* x, int64_t n) { WidenAll(out, x, n); }

void GroupMaxima(float* maxima, const float* x, int64_t n, int64_t group) {
  const int64_t chunk = group * kLanes;
  for (int64_t begin = 0; begin < n; begin += chunk, maxima += kLanes) {
    F32 best[2] = {Set(kLowest), Set(kLowest)};
    const int64_t end = begin + chunk < n ? begin + chunk : n;
    int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      best[0] = Max(Load(x + i), best[0]);
      best[1] = Max(Load(x + i + kLanes), best[1]);
    }
    for (; i < end; i += kLanes) {
      const F32 v =
          i + kLanes <= end ? Load(x + i) : LoadPartial(x + i, static_cast<int>(end - i), kLowest);
      best[0] = Max(v, best[0]);
    }
    Store(maxima, Max(best[0], best[1]));
  }
}

MLF_INLINE int64_t CountAtLeast(const float* x, int64_t n, F32 least) {
  I32 count = FloatToBits(Zero());
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32 v = Load(x + i);
    count = Map<I32>([&](int p) { return count.part[p] - (v.part[p] >= least.part[p]); });
  }
  int32_t lanes[kLanes];
  std::memcpy(lanes, &count, sizeof lanes);
  int64_t total = 0;
  for (const int32_t lane : lanes) total += lane;
  return total;
}

float KthLargest(const float* x, int64_t n, int64_t k) {
  // Bisection over the bits of rising keys; patterns beyond infinity are NaN, which nothing passes.
  uint32_t key = 0;
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    const uint32_t tried = key | bit, bits = tried >> 31 != 0 ? tried ^ (1u << 31) : ~tried;
    float least;
    std::memcpy(&least, &bits, sizeof least);
    if (CountAtLeast(x, n, Set(least)) >= k) key = tried;
  }
  if (key < 0x007FFFFF) return kLowest;  // that of -inf
  const uint32_t bits = key >> 31 != 0 ? key ^ (1u << 31) : ~key;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

int64_t GatherBetween(int32_t* ids, const float* x, int64_t n, float low, float high) {
  constexpr int64_t kStep = 32;  // steps without a hit cost no branch per element
  int64_t count = 0, i = 0;
  for (; i + kStep <= n; i += kStep) {
    int hits = 0;
    for (int64_t j = 0; j < kStep; ++j) hits += (x[i + j] >= low) & (x[i + j] <= high);
    if (hits == 0) continue;
    for (int64_t j = i; j < i + kStep; ++j) {
      ids[count] = static_cast<int32_t>(j);
      count += (x[j] >= low) & (x[j] <= high);
    }
  }
  for (; i < n; ++i) {
    ids[count] = static_cast<int32_t>(i);
    count += (x[i] >= low) & (x[i] <= high);
  }
  return count;
}

void SoftmaxWeights(float* out, const float* x, int64_t n, float max, float inverse) {
  const F32 top = Set(max), scale = Set(inverse);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Weight(Load(x + i), top, scale));
  if (i < n) {
    const int count = static_cast<int>(n - i);
    StorePartial(out + i, Weight(LoadPartial(x + i, count), top, scale), count);
  }
}

double SoftmaxMass(const float* x, int64_t n, float max, float inverse, float least) {
  const F32 top = Set(max), scale = Set(inverse), low = Set(least);
  LaneSums sums[2] = {{Zero(), Zero()}, {Zero(), Zero()}};
  const auto weight = [&](F32 v) __attribute__((always_inline)) {
    const F32 w = Weight(v, top, scale);
    return Map<F32>(
        [&](int p) -> NativeF32 { return v.part[p] >= low.part[p] ? w.part[p] : NativeF32{}; });
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    Add(sums[0], weight(Load(x + i)));
    Add(sums[1], weight(Load(x + i + kLanes)));
  }
  for (; i < n; i += kLanes) {
    const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    Add(sums[0], weight(LoadPartial(x + i, count, -__builtin_nanf(""))));
  }
  return Total(sums[0]) + Total(sums[1]);
}

void AddToBins(MassBin* bins, const float* x, int64_t n, float max, float inverse) {
  constexpr int64_t kStep = 256;
  float weights[kStep];
  int32_t bin[kStep];
  for (int64_t begin = 0; begin < n; begin += kStep) {
    const int64_t count = n - begin < kStep ? n - begin : kStep;
    SoftmaxWeights(weights, x + begin, count, max, inverse);
    for (int64_t i = 0; i < count; ++i) {
      const float positive_zero = x[begin + i] + 0.f;
      int32_t bits;
      std::memcpy(&bits, &positive_zero, sizeof bits);
      const uint32_t rising = static_cast<uint32_t>(bits ^ ((bits >> 31) & 0x7FFFFFFF));
      bin[i] = static_cast<int32_t>((0x7FFFFFFFu - rising) >> kBinShift);
    }
    for (int64_t i = 0; i < count; ++i) {
      bins[bin[i]].mass += static_cast<double>(weights[i]);
      ++bins[bin[i]].count;
    }
  }
}

}  // namespace mlf::MLF_LEVEL
