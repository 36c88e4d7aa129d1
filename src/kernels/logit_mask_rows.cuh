// One chunk of a row of logits under a bitmask on CUDA: what is learnt of it, and what becomes of
// it. Counterparts: logit_mask.cu, logit_mask.cc (MaskedRow).
#pragma once
#include <cmath>

#include "base/dtype.h"
#include "kernels/cuda_rank.cuh"
#include "kernels/cuda_reduce.cuh"
#include "kernels/cuda_row.cuh"
#include "kernels/logit_mask.h"
#include "kernels/logit_mask_launch.h"

namespace mlf {

inline constexpr int kMaskVectors = 4;        // 16 KiB of a row per block
inline constexpr float kGreedyBelow = 1e-4f;  // temperatures that mean: the best token
template <typename T>
using MaskChunk = RowChunk<T, kMaskThreads, kMaskVectors>;

template <typename T>
inline constexpr float kLargestOf = 3.40282347e38f;
template <>
inline constexpr float kLargestOf<F16> = 65504.f;
template <>
inline constexpr float kLargestOf<BF16> = 3.3895314e38f;

/// Bits of the rows.
struct CudaRowMasks {
  const uint32_t* bits;  // [masks, words]; null: all tokens are allowed
  int64_t masks, words;
  const int32_t* rows;  // null: row r has mask r

  /// A row outside the bitmask, which only the device sees.
  __device__ bool IsBad(int64_t row) const {
    return rows != nullptr && (rows[row] < -1 || rows[row] >= masks);
  }
  /// Null where a row, not a bad one, has no mask.
  __device__ const uint32_t* operator[](int64_t row) const {
    const int64_t at = rows == nullptr ? row : rows[row];
    return bits == nullptr || at < 0 ? nullptr : bits + at * words;
  }
};

/// The bits of kLanes elements from `begin`, a multiple of kLanes that is below n.
template <int kLanes>
__device__ inline uint32_t BitsAt(const uint32_t* mask, int64_t begin, int64_t n) {
  static_assert(32 % kLanes == 0);
  if (mask == nullptr) return ~0u;
  return begin < n ? mask[begin / 32] >> (begin % 32) : 0;
}

/// What one chunk says of its row. Weights are relative to the chunk's own largest logit.
struct alignas(16) MaskFindings {
  float any, allowed;  // the largest; any is NaN where there is a NaN
  float any_mass, allowed_mass;
};

/// NaN wins.
struct MaxOrNan {
  __device__ float operator()(float a, float b) const {
    return b > a || b != b ? b : a;  // nothing is above NaN
  }
};

/// x[n], the row; scale: log2(e) / temperature of the mass. The chunk is read twice, the second
/// time from the first-level cache: kept over the barriers between, it would be kept as floats, in
/// twice the registers.
template <typename T>
__device__ MaskFindings FindIn(const T* x, const uint32_t* mask, int64_t begin, int64_t n,
                               float scale) {
  constexpr int kLanes = MaskChunk<T>::kLanes;
  MaskChunk<T> chunk;
  chunk.Load(x + begin, n - begin, FromFloat<T>(-INFINITY));
  float any = -INFINITY, allowed = -INFINITY;
  bool has_nan = false;
#pragma unroll
  for (int v = 0; v < kMaskVectors; ++v) {
    const uint32_t bits = BitsAt<kLanes>(mask, begin + chunk.Begin(v), n);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const auto logit = static_cast<float>(chunk.vector[v].lane[i]);
      has_nan |= logit != logit;
      any = fmaxf(logit, any);
      if ((bits >> i & 1) != 0) allowed = fmaxf(logit, allowed);
    }
  }
  MaskFindings found{BlockReduce<kMaskThreads>(has_nan ? NAN : any, MaxOrNan()),
                     BlockReduce<kMaskThreads>(allowed, MaxOf()), 0, 0};
  if (mask == nullptr || !(found.any > -INFINITY)) return found;
  chunk.Load(x + begin, n - begin, FromFloat<T>(-INFINITY));
  float any_mass = 0, allowed_mass = 0;
#pragma unroll
  for (int v = 0; v < kMaskVectors; ++v) {
    const uint32_t bits = BitsAt<kLanes>(mask, begin + chunk.Begin(v), n);
    float of_any = 0, of_allowed = 0;  // few additions round
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const float weight =
          SoftmaxWeight(static_cast<float>(chunk.vector[v].lane[i]), found.any, scale);
      of_any += weight;
      if ((bits >> i & 1) != 0) of_allowed += weight;
    }
    any_mass += of_any;
    allowed_mass += of_allowed;
  }
  found.any_mass = BlockReduce<kMaskThreads>(any_mass, SumOf());
  found.allowed_mass = BlockReduce<kMaskThreads>(allowed_mass, SumOf());
  return found;
}

/// What all chunks say of a row together, for every thread.
struct MaskRow {
  float any, allowed;  // as in MaskFindings
  MaskStatus status;
};

__device__ inline MaskRow CombineMaxima(const MaskFindings* found, int64_t chunks, int64_t n) {
  float any = -INFINITY, allowed = -INFINITY;
  for (int64_t c = threadIdx.x; c < chunks; c += kMaskThreads) {
    any = MaxOrNan()(found[c].any, any);
    allowed = fmaxf(found[c].allowed, allowed);
  }
  any = BlockReduce<kMaskThreads>(any, MaxOrNan());
  allowed = BlockReduce<kMaskThreads>(allowed, MaxOf());
  const MaskStatus status = n > 0 && !(any > -INFINITY) ? kMaskBadLogits
                            : !(allowed > -INFINITY)    ? kMaskEmpty
                                                        : kMaskOk;
  return {any, allowed, status};
}

/// The part of the mass that is allowed, for every thread.
__device__ inline float CombineMasses(const MaskFindings* found, int64_t chunks, float max,
                                      float scale) {
  double any = 0, allowed = 0;
  for (int64_t c = threadIdx.x; c < chunks; c += kMaskThreads) {
    if (!(found[c].any > -INFINITY)) continue;
    const double weight = SoftmaxWeight(found[c].any, max, scale);
    any += weight * found[c].any_mass;
    allowed += weight * found[c].allowed_mass;
  }
  any = BlockReduce<kMaskThreads>(any, SumOf());
  return static_cast<float>(BlockReduce<kMaskThreads>(allowed, SumOf()) / any);
}

/// What becomes of an allowed logit.
struct MaskScale {
  float shift, temperature, inverse, least;

  template <typename T>
  __device__ static MaskScale Of(const MaskRow& row, float temperature, float ln_min_p) {
    MaskScale scale{0, temperature, 1 / temperature, -INFINITY};
    // Where the quotient of the best leaves the range of T, that of its distance to the best, which
    // is the same distribution.
    if (fabsf(row.allowed) <= kLargestOf<float> &&
        fabsf(row.allowed / temperature) > kLargestOf<T>) {
      scale.shift = row.allowed;
    }
    if (ln_min_p > -INFINITY) scale.least = (row.allowed - scale.shift) / temperature + ln_min_p;
    return scale;
  }

  /// (x - shift) / temperature rounded as a division is: a product, and the rest's share of it
  /// (Markstein, IBM J. R&D 34, 1990); the rest of an infinite quotient would be NaN.
  __device__ float operator()(float x) const {
    const float distance = x - shift, quotient = distance * inverse;
    const float rest = fmaf(-quotient, temperature, distance);
    const bool finite = fabsf(quotient) <= kLargestOf<float>;
    const float scaled = finite ? fmaf(rest, inverse, quotient) : quotient;
    return scaled >= least ? scaled : -INFINITY;
  }
};

template <typename T>
__device__ void ScaleIn(MaskChunk<T>& chunk, const uint32_t* mask, int64_t begin, int64_t n,
                        const MaskScale& scale) {
  constexpr int kLanes = MaskChunk<T>::kLanes;
#pragma unroll
  for (int v = 0; v < kMaskVectors; ++v) {
    const uint32_t bits = BitsAt<kLanes>(mask, begin + chunk.Begin(v), n);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const float scaled = scale(static_cast<float>(chunk.vector[v].lane[i]));
      chunk.vector[v].lane[i] = FromFloat<T>((bits >> i & 1) != 0 ? scaled : -INFINITY);
    }
  }
}

template <typename T>
__device__ void FillIn(MaskChunk<T>& chunk) {
#pragma unroll
  for (auto& vector : chunk.vector) {
#pragma unroll
    for (T& lane : vector.lane) lane = FromFloat<T>(-INFINITY);
  }
}

/// The first chunk that holds the row's best, for every thread.
__device__ inline int64_t ChunkOf(float best, const MaskFindings* found, int64_t chunks) {
  long long first = INT64_MAX;
  for (int64_t c = threadIdx.x; c < chunks; c += kMaskThreads) {
    if (found[c].allowed == best) first = first < c ? first : c;
  }
  return BlockReduce<kMaskThreads>(first, MinOf());
}

/// Keeps the first allowed `best` of the row; `first`: it lies in this chunk.
template <typename T>
__device__ void KeepFirst(MaskChunk<T>& chunk, const uint32_t* mask, int64_t begin, int64_t n,
                          float best, bool first) {
  constexpr int kLanes = MaskChunk<T>::kLanes;
  int at = INT32_MAX;
  if (first) {
#pragma unroll
    for (int v = kMaskVectors - 1; v >= 0; --v) {
      const uint32_t bits = BitsAt<kLanes>(mask, begin + chunk.Begin(v), n);
#pragma unroll
      for (int i = kLanes - 1; i >= 0; --i) {
        const bool is_best = static_cast<float>(chunk.vector[v].lane[i]) == best;
        if (is_best && (bits >> i & 1) != 0) at = chunk.Begin(v) + i;
      }
    }
  }
  at = BlockReduce<kMaskThreads>(at, MinOf());
#pragma unroll
  for (int v = 0; v < kMaskVectors; ++v) {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      if (chunk.Begin(v) + i != at) chunk.vector[v].lane[i] = FromFloat<T>(-INFINITY);
    }
  }
}

}  // namespace mlf
