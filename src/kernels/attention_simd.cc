// Attention of a block of queries with one key/value head. Counterparts: attention_simd.h,
// attention.cc.
//
// A row is one head of one token. Every row goes through the same chain of operations whatever
// other rows share its block: a score is one chain of multiply-adds over head_dim, an output lane
// one chain over the visible entries in table order. Hidden entries take no part at all, so that
// what they hold (even NaN) and whether their page was looked at makes no difference.
#include "kernels/attention_simd.h"

#include "base/simd.h"

namespace mlf::MLF_LEVEL {

constexpr int kEntries = 32;  // kPageSize of attention.h, which is no light header
constexpr uint32_t kAllEntries = 0xFFFFFFFFu;
constexpr float kLowest = -__builtin_inff();

// Rows that share the loads of a page, and vectors of their outputs held in registers: kRows * 2
// scores or kRows * kVectors outputs, beside the loaded page.
#if defined(__AVX512F__)
constexpr int kRows = 4, kVectors = 4;
#elif defined(__AVX2__)
constexpr int kRows = 2, kVectors = 2;
#elif defined(__aarch64__)
constexpr int kRows = 2, kVectors = 2;
#else
constexpr int kRows = 1, kVectors = 2;
#endif

MLF_INLINE int64_t RoundUp(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

MLF_INLINE bool AnyGreater(F32 a, F32 b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a.part[0], b.part[0], _CMP_GT_OQ) != 0;
#elif defined(__AVX2__)
  const __m256 low = _mm256_cmp_ps(a.part[0], b.part[0], _CMP_GT_OQ),
               high = _mm256_cmp_ps(a.part[1], b.part[1], _CMP_GT_OQ);
  return _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0;
#else
  return ReduceMax(a) > ReduceMax(b);  // b is one value in all lanes
#endif
}

/// Bit e: entry e is filled and not after `position`. An empty entry's −1 is the largest unsigned.
MLF_INLINE uint32_t VisibleEntries(const int32_t* positions, int32_t position) {
  if (position < 0) return 0;
#if defined(__AVX512F__)
  const __m512i limit = _mm512_set1_epi32(position);
  const uint32_t low = _mm512_cmple_epu32_mask(_mm512_loadu_si512(positions), limit),
                 high = _mm512_cmple_epu32_mask(_mm512_loadu_si512(positions + kLanes), limit);
  return low | high << kLanes;
#else
  uint32_t visible = 0;
  for (int e = 0; e < kEntries; ++e) {
    const bool is_visible = static_cast<uint32_t>(positions[e]) <= static_cast<uint32_t>(position);
    visible |= static_cast<uint32_t>(is_visible) << e;
  }
  return visible;
#endif
}

/// −inf in the lanes whose entry is not visible at `position` (>= 0).
MLF_INLINE F32 Hide(F32 score, const int32_t* positions, int32_t position) {
  return Map<F32>([&](int p) -> NativeF32 {
    NativeU32 entry;
    std::memcpy(&entry, positions + kWidth * p, sizeof entry);
    return entry <= static_cast<uint32_t>(position) ? score.part[p] : NativeF32{} + kLowest;
  });
}

/// scores[r, e] = q[r, :] · k[:, e], one chain over head_dim.
template <int kR, typename T>
MLF_INLINE void Scores(float* scores, const float* q, const T* k, int64_t head_dim) {
  F32 low[kR], high[kR];
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) low[r] = high[r] = Zero();
  for (int64_t d = 0; d < head_dim; ++d) {
    const F32 k_low = Load(k + d * kEntries), k_high = Load(k + d * kEntries + kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) {
      const F32 x = Set(q[r * head_dim + d]);
      low[r] = Fma(x, k_low, low[r]);
      high[r] = Fma(x, k_high, high[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) {
    Store(scores + r * kEntries, low[r]);
    Store(scores + r * kEntries + kLanes, high[r]);
  }
}

/// Turns the scores of one row into weights exp(score − max), moves the running maximum and sum,
/// and returns the factor that brings earlier weights to the new maximum.
MLF_INLINE float Weigh(float* scores, const int32_t* positions, int32_t position, uint32_t visible,
                       float* max, float* sum) {
  F32 low = Load(scores), high = Load(scores + kLanes);
  if (visible != kAllEntries) {
    low = Hide(low, positions, position);
    high = Hide(high, positions + kLanes, position);
  }
  const float old_max = *max;
  float factor = 1.f;
  const F32 larger = Max(low, high);
  if (AnyGreater(larger, Set(old_max))) {
    *max = ReduceMax(larger);
    float lane[kLanes];
    Store(lane, Exp(Set(old_max) - Set(*max)));
    factor = lane[0];
  }
  // Where all scores are −inf there is nothing to subtract: −inf − −inf would be NaN.
  const F32 base = Set(*max == kLowest ? 0.f : *max);
  low = Exp(low - base);
  high = Exp(high - base);
  Store(scores, low);
  Store(scores + kLanes, high);
  Store(sum, Fma(Load(sum), Set(factor), low + high));
  return factor;
}

/// acc[r, :] = acc[r, :] * factor[r] + sum_e weights[r, e] v[e, :] over the visible entries of each
/// row, for kC vectors of 16 lanes.
template <int kR, int kC, typename T>
MLF_INLINE void Accumulate(float* acc, int64_t dim, const float* weights, const float* factor,
                           const uint32_t* visible, const T* v) {
  F32 sum[kR][kC];
  uint32_t all = kAllEntries, any = 0;
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) {
    all &= visible[r];
    any |= visible[r];
#pragma GCC unroll 4
    for (int c = 0; c < kC; ++c) sum[r][c] = Load(acc + r * dim + c * kLanes) * Set(factor[r]);
  }
  const auto add = [&](int e, int r, const F32* value) __attribute__((always_inline)) {
    const F32 weight = Set(weights[r * kEntries + e]);
#pragma GCC unroll 4
    for (int c = 0; c < kC; ++c) sum[r][c] = Fma(weight, value[c], sum[r][c]);
  };
  for (; any != 0; any &= any - 1) {
    const int e = __builtin_ctz(any);
    F32 value[kC];
#pragma GCC unroll 4
    for (int c = 0; c < kC; ++c) value[c] = Load(v + e * dim + c * kLanes);
    if (all >> e & 1) {
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r) add(e, r, value);
    } else {
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r) {
        if (visible[r] >> e & 1) add(e, r, value);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kC; ++c) Store(acc + r * dim + c * kLanes, sum[r][c]);
  }
}

/// kR rows against one page.
template <int kR, typename T>
static void Attend(const AttentionBlock& b, int64_t row, const int32_t* positions, const T* k,
                   const T* v) {
  const int64_t dim = RoundUp(b.head_dim);
  const uint32_t* visible = b.scratch.visible + row;
  uint32_t any = 0;
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) any |= visible[r];
  if (any == 0) return;
  float weights[kR * kEntries], factor[kR];
  Scores<kR>(weights, b.scratch.q + row * b.head_dim, k, b.head_dim);
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) {
    factor[r] = 1.f;
    if (visible[r] == 0) continue;
    factor[r] = Weigh(weights + r * kEntries, positions, b.scratch.position[row + r], visible[r],
                      b.scratch.max + row + r, b.scratch.sum + (row + r) * kLanes);
  }
  float* acc = b.scratch.acc + row * dim;
  int64_t d = 0;
  for (; d + kVectors * kLanes <= dim; d += kVectors * kLanes) {
    Accumulate<kR, kVectors>(acc + d, dim, weights, factor, visible, v + d);
  }
  for (; d < dim; d += kLanes) Accumulate<kR, 1>(acc + d, dim, weights, factor, visible, v + d);
}

/// All rows of the block against one page.
template <typename T>
MLF_INLINE void AttendAll(const AttentionBlock& b, const int32_t* positions, const T* k,
                          const T* v) {
  const int64_t rows = b.tokens * b.group;
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) Attend<kRows>(b, row, positions, k, v);
  if constexpr (kRows > 2) {
    if (rows - row == 3) return Attend<3>(b, row, positions, k, v);
  }
  if constexpr (kRows > 1) {
    if (rows - row >= 2) return Attend<2>(b, row, positions, k, v);
    if (rows - row == 1) return Attend<1>(b, row, positions, k, v);
  }
}

/// A page's keys and values as floats, the rows of the values padded to whole vectors.
template <typename T>
MLF_INLINE void WidenPage(const AttentionBlock& b, const T* k, const T* v) {
  const int64_t n = b.head_dim, dim = RoundUp(n);
  for (int64_t i = 0; i < n * kEntries; i += kLanes) Store(b.scratch.k + i, Load(k + i));
  for (int e = 0; e < kEntries; ++e) {
    int64_t d = 0;
    for (; d + kLanes <= n; d += kLanes) Store(b.scratch.v + e * dim + d, Load(v + e * n + d));
    if (d == n) continue;
    Store(b.scratch.v + e * dim + d, LoadPartial(v + e * n + d, static_cast<int>(n - d)));
  }
}

/// Marks what each row sees of a page; false where no row sees anything.
MLF_INLINE bool MarkVisible(const AttentionBlock& b, const int32_t* positions) {
  uint32_t any = 0;
  for (int64_t t = 0; t < b.tokens; ++t) {
    const uint32_t visible = VisibleEntries(positions, b.token_positions[t]);
    for (int64_t g = 0; g < b.group; ++g) b.scratch.visible[t * b.group + g] = visible;
    any |= visible;
  }
  return any != 0;
}

MLF_INLINE void Start(const AttentionBlock& b) {
  const int64_t rows = b.tokens * b.group, dim = RoundUp(b.head_dim);
  for (int64_t r = 0; r < rows; ++r) {
    const float* q = b.q + r / b.group * b.token_stride + r % b.group * b.head_dim;
    for (int64_t d = 0; d < b.head_dim; ++d) b.scratch.q[r * b.head_dim + d] = q[d] * b.scale;
    for (int64_t d = 0; d < dim; ++d) b.scratch.acc[r * dim + d] = 0.f;
    b.scratch.position[r] = b.token_positions[r / b.group];
    b.scratch.max[r] = kLowest;
    Store(b.scratch.sum + r * kLanes, Zero());
  }
}

MLF_INLINE void Finish(const AttentionBlock& b) {
  const int64_t rows = b.tokens * b.group, dim = RoundUp(b.head_dim);
  for (int64_t r = 0; r < rows; ++r) {
    float* out = b.out + r / b.group * b.token_stride + r % b.group * b.head_dim;
    const float sum = ReduceAdd(Load(b.scratch.sum + r * kLanes));
    const float inverse = sum == 0.f ? 0.f : 1.f / sum;  // 0: nothing was visible
    for (int64_t d = 0; d < b.head_dim; ++d) out[d] = b.scratch.acc[r * dim + d] * inverse;
  }
}

template <typename T>
MLF_INLINE void RunBlock(const AttentionBlock& b) {
  const int64_t passes = (b.tokens * b.group + kRows - 1) / kRows;
  const bool widen = b.head_dim % kLanes != 0 || (sizeof(T) == 2 && passes > 1);
  Start(b);
  for (int64_t i = 0; i < b.n_pages; ++i) {
    const int32_t* positions = b.positions + int64_t{b.pages[i]} * kEntries;
    if (!MarkVisible(b, positions)) continue;
    const T* k = static_cast<const T*>(b.k_pages) + b.pages[i] * b.page_stride;
    const T* v = static_cast<const T*>(b.v_pages) + b.pages[i] * b.page_stride;
    if (widen) {
      WidenPage(b, k, v);
      AttendAll(b, positions, b.scratch.k, b.scratch.v);
    } else {
      AttendAll(b, positions, k, v);
    }
  }
  Finish(b);
}

void AttentionBlockF32(const AttentionBlock& block) { RunBlock<float>(block); }
void AttentionBlockF16(const AttentionBlock& block) { RunBlock<F16>(block); }

void NarrowToF16(F16* out, const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(x + i));
  if (i < n) StorePartial(out + i, LoadPartial(x + i, static_cast<int>(n - i)), n - i);
}

void WidenF16(float* out, const F16* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(x + i));
  if (i < n) StorePartial(out + i, LoadPartial(x + i, static_cast<int>(n - i)), n - i);
}

}  // namespace mlf::MLF_LEVEL
