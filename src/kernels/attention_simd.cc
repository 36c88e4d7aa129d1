// Attention of a block of queries with one key/value head. Counterparts: attention_simd.h,
// attention_block.h.
//
// A row is one head of one token. Every row goes through the same chain of operations whatever
// other rows share its block: a score is one chain of multiply-adds over head_dim, an output lane
// one chain over the visible entries in table order. Hidden entries take no part at all, so that
// what they hold (even NaN) and whether their page was looked at makes no difference. Pages hold
// keys transposed; plain rows of keys are brought to the same form, 32 at a time, so that both go
// through the same code and give the same bits.
#include "kernels/attention_simd.h"

#include "base/simd.h"
#include "base/simd_math.h"
#include "kernels/attention_keys.h"
#include "kernels/transpose.h"

namespace mlf::MLF_LEVEL {

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

/// Bit e: the position of entry e is in [first, last]. As unsigned numbers, what lies below `first`
/// (an empty entry's −1 too) is larger than all else.
MLF_INLINE uint32_t VisibleEntries(const int32_t* positions, int32_t first, int32_t last) {
  if (last < first) return 0;
#if defined(__AVX512F__)
  const __m512i start = _mm512_set1_epi32(first), limit = _mm512_set1_epi32(last - first);
  const auto within = [&](const int32_t* p) -> uint32_t {
    return _mm512_cmple_epu32_mask(_mm512_sub_epi32(_mm512_loadu_si512(p), start), limit);
  };
  return within(positions) | within(positions + kLanes) << kLanes;
#else
  const uint32_t low = static_cast<uint32_t>(first), span = static_cast<uint32_t>(last) - low;
  uint32_t visible = 0;
  for (int e = 0; e < kEntries; ++e) {
    const bool is_visible = static_cast<uint32_t>(positions[e]) - low <= span;
    visible |= static_cast<uint32_t>(is_visible) << e;
  }
  return visible;
#endif
}

/// Bit e: the position of entry e is in [0, sinks). An empty entry's −1 is beyond all.
MLF_INLINE uint32_t SinkEntries(const int32_t* positions, int32_t sinks) {
  uint32_t visible = 0;
  for (int e = 0; e < kEntries; ++e) {
    const bool is_sink = static_cast<uint32_t>(positions[e]) < static_cast<uint32_t>(sinks);
    visible |= static_cast<uint32_t>(is_sink) << e;
  }
  return visible;
}

/// −inf in the lanes whose position is neither in [first, last], where first <= last, nor in [0,
/// sinks).
MLF_INLINE F32 Hide(F32 score, const int32_t* positions, int32_t first, int32_t last,
                    int32_t sinks) {
  const uint32_t low = static_cast<uint32_t>(first), span = static_cast<uint32_t>(last) - low,
                 end = static_cast<uint32_t>(sinks);
  return Map<F32>([&](int p) -> NativeF32 {
    NativeU32 entry;
    std::memcpy(&entry, positions + kWidth * p, sizeof entry);
    return ((entry - low <= span) | (entry < end)) ? score.part[p] : NativeF32{} + kLowest;
  });
}

/// Under a cap a state holds hyperbolic tangents: differences of scores are taken before the cap is
/// put on, whose products would round away what large ones differ by.
MLF_INLINE F32 Cap(F32 score, float soft_cap) { return Tanh(score * Set(1.f / soft_cap)); }
MLF_INLINE float FactorOf(float soft_cap) { return soft_cap == 0.f ? 1.f : soft_cap; }

/// Turns the scores of one row into weights exp(score − max), moves the running maximum and sum,
/// and returns the factor that brings earlier weights to the new maximum. Not inlined: it would be
/// most of the code, many times over.
__attribute__((noinline)) static float Weigh(const AttentionBlock& b, int64_t row,
                                             const int32_t* positions, float* scores) {
  F32 low = Load(scores), high = Load(scores + kLanes);
  const F32 spread = Set(FactorOf(b.soft_cap));
  if (b.soft_cap != 0.f) {
    low = Cap(low, b.soft_cap);
    high = Cap(high, b.soft_cap);
  }
  const int32_t first = b.scratch.first[row], last = b.scratch.last[row],
                sinks = b.scratch.sinks[row];
  if (b.scratch.visible[row] != kAllEntries) {
    low = Hide(low, positions, first, last, sinks);
    high = Hide(high, positions + kLanes, first, last, sinks);
  }
  float* max = b.scratch.state.max + row;
  float* sum = b.scratch.state.sum + row * kLanes;
  const float old_max = *max;
  float factor = 1.f;
  const F32 larger = Max(low, high);
  if (AnyGreater(larger, Set(old_max))) {
    *max = ReduceMax(larger);
    float lane[kLanes];
    Store(lane, Exp((Set(old_max) - Set(*max)) * spread));
    factor = lane[0];
  }
  // Where all scores are −inf there is nothing to subtract: −inf − −inf would be NaN.
  const F32 base = Set(*max == kLowest ? 0.f : *max);
  low = Exp((low - base) * spread);
  high = Exp((high - base) * spread);
  Store(scores, low);
  Store(scores + kLanes, high);
  Store(sum, Fma(Load(sum), Set(factor), low + high));
  return factor;
}

/// acc[r, :] = acc[r, :] * factor[r] + sum_e weights[r, e] v[e, :] over the visible entries of each
/// row, for kC vectors of 16 lanes. Not inlined: it needs nearly all registers.
template <int kR, int kC, typename T, typename A>
__attribute__((noinline)) static void Accumulate(float* acc, int64_t dim, const float* weights,
                                                 const float* factor, const uint32_t* visible,
                                                 const T* v, int64_t v_stride, A& ahead) {
  F32 sum[kR][kC];
  uint32_t all = kAllEntries, any = 0;
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) {
    all &= visible[r];
    any |= visible[r];
#pragma GCC unroll 4
    for (int c = 0; c < kC; ++c) sum[r][c] = Load(acc + r * dim + c * kLanes) * Set(factor[r]);
  }
  if (all == kAllEntries) {  // apart from the rest, which would keep the values out of registers
    for (int e = 0; e < kEntries; ++e) {
      F32 value[kC];
#pragma GCC unroll 4
      for (int c = 0; c < kC; ++c) value[c] = Load(v + e * v_stride + c * kLanes);
      ahead.Ask(kC * kLanes * static_cast<int>(sizeof(T)) / 64);
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r) {
        const F32 weight = Set(weights[r * kEntries + e]);
#pragma GCC unroll 4
        for (int c = 0; c < kC; ++c) sum[r][c] = Fma(weight, value[c], sum[r][c]);
      }
    }
    any = 0;
  }
  for (; any != 0; any &= any - 1) {
    const int e = __builtin_ctz(any);
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) {
      if ((visible[r] >> e & 1) == 0) continue;
      const F32 weight = Set(weights[r * kEntries + e]);
#pragma GCC unroll 4
      for (int c = 0; c < kC; ++c) {
        sum[r][c] = Fma(weight, Load(v + e * v_stride + c * kLanes), sum[r][c]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kC; ++c) Store(acc + r * dim + c * kLanes, sum[r][c]);
  }
}

/// 32 keys and their values [kEntries, v_stride], padded to whole vectors.
template <typename K, typename V, typename A>
struct Keys {
  const int32_t* positions;
  K k;
  const V* v;
  int64_t v_stride;
  A& k_ahead;
  A& v_ahead;
};

/// kR rows against 32 keys.
template <int kR, typename K, typename V, typename A>
static void Attend(const AttentionBlock& b, int64_t row, const Keys<K, V, A>& keys) {
  const int64_t dim = RoundUp(b.head_dim);
  const uint32_t* visible = b.scratch.visible + row;
  uint32_t any = 0;
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) any |= visible[r];
  if (any == 0) return;
  alignas(64) float weights[kR * kEntries];
  float factor[kR];
  keys.k.template Scores<kR>(weights, b.scratch.q + row * b.head_dim, b.head_dim, keys.k_ahead);
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r) {
    factor[r] = 1.f;
    if (visible[r] != 0) factor[r] = Weigh(b, row + r, keys.positions, weights + r * kEntries);
  }
  float* acc = b.scratch.state.acc + row * dim;
  int64_t d = 0;
  for (; d + kVectors * kLanes <= dim; d += kVectors * kLanes) {
    Accumulate<kR, kVectors>(acc + d, dim, weights, factor, visible, keys.v + d, keys.v_stride,
                             keys.v_ahead);
  }
  for (; d < dim; d += kLanes) {
    Accumulate<kR, 1>(acc + d, dim, weights, factor, visible, keys.v + d, keys.v_stride,
                      keys.v_ahead);
  }
}

/// All rows of the block against 32 keys.
template <typename K, typename V, typename A>
MLF_INLINE void AttendAll(const AttentionBlock& b, const Keys<K, V, A>& keys) {
  const int64_t rows = b.tokens * b.group;
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) Attend<kRows>(b, row, keys);
  if constexpr (kRows > 2) {
    if (rows - row == 3) return Attend<3>(b, row, keys);
  }
  if constexpr (kRows > 1) {
    if (rows - row >= 2) return Attend<2>(b, row, keys);
    if (rows - row == 1) return Attend<1>(b, row, keys);
  }
}

/// Whether values are worth a copy: they are read once per pass, or their rows need padding.
MLF_INLINE bool ManyPasses(const AttentionBlock& b) { return b.tokens * b.group > kRows; }
MLF_INLINE bool NeedsPadding(const AttentionBlock& b) { return b.head_dim % kLanes != 0; }

/// n values as floats in scratch.v, their rows padded to whole vectors; zero from n on.
template <typename T>
MLF_INLINE void CopyValues(const AttentionBlock& b, const T* v, int64_t stride, int64_t n) {
  const int64_t dims = b.head_dim, dim = RoundUp(dims);
  for (int e = 0; e < kEntries; ++e) {
    float* out = b.scratch.v + e * dim;
    int64_t d = 0;
    for (; e < n && d + kLanes <= dims; d += kLanes) Store(out + d, Load(v + e * stride + d));
    for (; d < dim; d += kLanes) {
      const int left = static_cast<int>(dims - d);
      Store(out + d, e < n ? LoadPartial(v + e * stride + d, left) : Zero());
    }
  }
}

MLF_INLINE void Clear(const AttentionBlock& b, int64_t heads = 1) {
  const int64_t rows = heads * b.tokens * b.group, dim = RoundUp(b.head_dim);
  const AttentionState& state = b.scratch.state;
  for (int64_t i = 0; i < rows * dim; i += kLanes) Store(state.acc + i, Zero());
  for (int64_t r = 0; r < rows; ++r) {
    state.max[r] = kLowest;
    Store(state.sum + r * kLanes, Zero());
  }
}

/// Marks what each row sees, as visible(row) has it; false where no row sees anything.
template <typename Fn>
MLF_INLINE bool MarkVisible(const AttentionBlock& b, Fn visible) {
  uint32_t any = 0;
  for (int64_t t = 0; t < b.tokens; ++t) {
    const int64_t row = t * b.group;
    const uint32_t bits = visible(row);
    for (int64_t g = 0; g < b.group; ++g) b.scratch.visible[row + g] = bits;
    any |= bits;
  }
  return any != 0;
}

// ---- pages --------------------------------------------------------------------------------------

template <typename T>
MLF_INLINE void AttendPages(const AttentionBlock& b, const PagedKeys& keys) {
  const bool few = !ManyPasses(b), widen = NeedsPadding(b) || (sizeof(T) == 2 && !few);
  const int64_t n = b.head_dim, size = n * kEntries;
  Clear(b);
  for (int64_t i = 0; i < keys.n_pages; ++i) {
    const int32_t* positions = keys.positions + int64_t{keys.pages[i]} * kEntries;
    const bool any = MarkVisible(b, [&](int64_t row) {
      const int32_t sinks = b.scratch.sinks[row];
      const uint32_t seen = VisibleEntries(positions, b.scratch.first[row], b.scratch.last[row]);
      return sinks == 0 ? seen : seen | SinkEntries(positions, sinks);
    });
    if (!any) continue;
    const T* k = static_cast<const T*>(keys.k_pages) + keys.pages[i] * keys.page_stride;
    const T* v = static_cast<const T*>(keys.v_pages) + keys.pages[i] * keys.page_stride;
    const int64_t next = few && i + 1 < keys.n_pages ? keys.pages[i + 1] - keys.pages[i] : 0;
    Ahead k_ahead(k + next * keys.page_stride, 0, next != 0, size),
        v_ahead(v + next * keys.page_stride, 0, next != 0, size);
    NothingAhead nothing;
    if (widen) {
      for (int64_t j = 0; j < size; j += kLanes) Store(b.scratch.k + j, Load(k + j));
      CopyValues(b, v, n, kEntries);
      AttendAll(b, Keys<Columns<float>, float, NothingAhead>{
                       positions, {b.scratch.k}, b.scratch.v, RoundUp(n), nothing, nothing});
    } else if (few) {
      AttendAll(b, Keys<Columns<T>, T, Ahead>{positions, {k}, v, n, k_ahead, v_ahead});
    } else if constexpr (sizeof(T) == 4) {
      AttendAll(b, Keys<Columns<T>, T, NothingAhead>{positions, {k}, v, n, nothing, nothing});
    }
  }
}

// ---- plain rows ---------------------------------------------------------------------------------

/// Bit e: first <= begin + e <= last.
MLF_INLINE uint32_t VisibleRange(int64_t begin, int64_t first, int64_t last) {
  const int64_t low = first > begin ? first - begin : 0,
                high = last < begin + kEntries - 1 ? last - begin : kEntries - 1;
  if (high < low) return 0;
  return kAllEntries << low & kAllEntries >> (kEntries - 1 - high);
}

/// The part of the block that belongs to one of its key/value heads.
MLF_INLINE AttentionBlock HeadOf(const AttentionBlock& b, int64_t head) {
  const int64_t row = head * b.tokens * b.group;
  AttentionBlock out = b;
  out.scratch.q += row * b.head_dim;
  out.scratch.state.acc += row * RoundUp(b.head_dim);
  out.scratch.state.max += row;
  out.scratch.state.sum += row * kLanes;
  return out;
}

/// n <= 32 keys of one head.
template <typename T>
MLF_INLINE void AttendHead(const AttentionBlock& b, const T* k, const T* v, int64_t stride,
                           int64_t n, Ahead& k_ahead, Ahead& v_ahead) {
  const int64_t dims = b.head_dim;
  const int32_t* positions = b.scratch.positions;
  const bool direct = !ManyPasses(b) && !NeedsPadding(b);
  if constexpr (kWidth == kLanes) {
    if (direct && n == kEntries) {
      return AttendAll(
          b, Keys<PlainRows<T>, T, Ahead>{positions, {k, stride}, v, stride, k_ahead, v_ahead});
    }
  }
  for (int e = 0; e < kEntries; e += kWidth) {
    TransposeRows(b.scratch.k + e, kEntries, k + e * stride, stride, n - e, dims);
  }
  const Columns<float> columns{b.scratch.k};
  if (direct) {
    return AttendAll(
        b, Keys<Columns<float>, T, Ahead>{positions, columns, v, stride, k_ahead, v_ahead});
  }
  NothingAhead nothing;
  CopyValues(b, v, stride, n);
  AttendAll(b, Keys<Columns<float>, float, NothingAhead>{positions, columns, b.scratch.v,
                                                         RoundUp(dims), nothing, nothing});
}

/// The 32 keys from `begin` on, of all heads, while the next 32 are asked for.
template <typename T>
MLF_INLINE void AttendTile(const AttentionBlock& b, const RowKeys& keys, int64_t begin) {
  const int64_t dims = b.head_dim, stride = keys.stride, left = keys.end - begin,
                here = left < kEntries ? left : kEntries,
                next = left - here < kEntries ? left - here : kEntries;
  const T* k = static_cast<const T*>(keys.k) + begin * stride;
  const T* v = static_cast<const T*>(keys.v) + begin * stride;
  Ahead k_ahead(k + here * stride, stride, next, keys.heads * dims),
      v_ahead(v + here * stride, stride, next, keys.heads * dims);
  for (int64_t head = 0; head < keys.heads; ++head) {
    AttendHead(HeadOf(b, head), k + head * dims, v + head * dims, stride, here, k_ahead, v_ahead);
  }
}

template <typename T>
MLF_INLINE void AttendRows(const AttentionBlock& b, const RowKeys& keys) {
  Clear(b, keys.heads);
  for (int64_t begin = keys.begin; begin < keys.end; begin += kEntries) {
    const bool any = MarkVisible(b, [&](int64_t row) {
      return VisibleRange(begin, b.scratch.first[row], b.scratch.last[row]);
    });
    if (!any) continue;
    for (int e = 0; e < kEntries; ++e) b.scratch.positions[e] = static_cast<int32_t>(begin + e);
    AttendTile<T>(b, keys, begin);
  }
}

void AttendPagesF32(const AttentionBlock& b, const PagedKeys& keys) { AttendPages<float>(b, keys); }
void AttendPagesF16(const AttentionBlock& b, const PagedKeys& keys) { AttendPages<F16>(b, keys); }
void AttendPagesBF16(const AttentionBlock& b, const PagedKeys& keys) { AttendPages<BF16>(b, keys); }
void AttendRowsF32(const AttentionBlock& b, const RowKeys& keys) { AttendRows<float>(b, keys); }
void AttendRowsF16(const AttentionBlock& b, const RowKeys& keys) { AttendRows<F16>(b, keys); }
void AttendRowsBF16(const AttentionBlock& b, const RowKeys& keys) { AttendRows<BF16>(b, keys); }

// ---- states -------------------------------------------------------------------------------------

MLF_INLINE float ExpOf(float x) {
  float lane[kLanes];
  Store(lane, Exp(Set(x)));
  return lane[0];
}

void MergeAttention(const AttentionState& state, const AttentionState& part, int64_t rows,
                    int64_t head_dim, float soft_cap) {
  const int64_t dim = RoundUp(head_dim);
  const float spread = FactorOf(soft_cap);
  for (int64_t r = 0; r < rows; ++r) {
    float *sum = state.sum + r * kLanes, *part_sum = part.sum + r * kLanes;
    if (ReduceAdd(Load(part_sum)) == 0.f) continue;  // nothing was visible
    const float old_max = state.max[r], max = old_max > part.max[r] ? old_max : part.max[r];
    // An empty state counts for nothing, whatever its maximum: −inf − −inf would be NaN.
    const float old = ReduceAdd(Load(sum)) == 0.f ? 0.f : ExpOf((old_max - max) * spread),
                add = part.max[r] == max ? 1.f : ExpOf((part.max[r] - max) * spread);
    state.max[r] = max;
    Store(sum, Fma(Load(sum), Set(old), Load(part_sum) * Set(add)));
    for (int64_t d = r * dim; d < (r + 1) * dim; d += kLanes) {
      Store(state.acc + d, Fma(Load(state.acc + d), Set(old), Load(part.acc + d) * Set(add)));
    }
  }
}

void FinishAttention(const AttentionState& state, int64_t rows, int64_t head_dim) {
  const int64_t dim = RoundUp(head_dim);
  for (int64_t r = 0; r < rows; ++r) {
    const float sum = ReduceAdd(Load(state.sum + r * kLanes));
    const F32 inverse = Set(sum == 0.f ? 0.f : 1.f / sum);  // 0: nothing was visible
    for (int64_t d = r * dim; d < (r + 1) * dim; d += kLanes) {
      Store(state.acc + d, Load(state.acc + d) * inverse);
    }
  }
}

}  // namespace mlf::MLF_LEVEL
