// What rows of attention on CUDA gather and how parts of it are added up; the one order and
// rounding that all kernels share. Counterparts: attention_mma.cuh, attention_plain.cuh.
#pragma once
#include "kernels/attention_walk.cuh"

namespace mlf {

// Bits must not depend on which kernel gathered a part: where a product feeds a sum, code says
// whether it is rounded in between.
__device__ __forceinline__ float MulRounded(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

inline constexpr float kLog2E = 1.44269504088896340736f;
__device__ __forceinline__ float Lowest() { return -INFINITY; }

/// How a score becomes a weight 2^(spread * (x − max)): x = factor * q·k, or under a cap its
/// hyperbolic tangent, so that differences are taken before the cap is put on.
struct ScoreScale {
  float factor, spread;
  bool capped;

  static ScoreScale Of(double scale, double soft_cap) {
    if (soft_cap == 0) return {static_cast<float>(scale * double{kLog2E}), 1.f, false};
    return {static_cast<float>(scale / soft_cap), static_cast<float>(soft_cap * double{kLog2E}),
            true};
  }
  /// Turns n products q·k into exponents x.
  template <int kN>
  __device__ __forceinline__ void Exponents(float (&dots)[kN]) const {
#pragma unroll
    for (float& dot : dots) dot = MulRounded(dot, factor);
    if (!capped) return;
#pragma unroll
    for (float& dot : dots) dot = tanhf(dot);
  }
  __device__ __forceinline__ float Power(float x, float max) const {
    return exp2f(MulRounded(x - max, spread));
  }
};

/// The largest exponent of a row's keys and the sum of their weights; the sum is zero where nothing
/// counts.
struct RowWeight {
  float max, sum;
};

/// One step of a running maximum: what to take weights against, and what earlier sums are
/// multiplied by.
struct MaxStep {
  float base, factor;
};
__device__ __forceinline__ MaxStep RaiseMax(float& max, float larger, const ScoreScale& scale) {
  const float old = max;
  max = fmaxf(old, larger);
  // Where all are −inf there is nothing to subtract: −inf − −inf would be NaN.
  return {max == Lowest() ? 0.f : max, max == old ? 1.f : scale.Power(old, max)};
}

/// Adds a part to a total, as if all had been gathered in one.
struct Fold {
  enum Kind { kKeep, kReplace, kAdd } kind;
  float keep, add;

  /// Changes `total` to the weight of both.
  __device__ __forceinline__ Fold(RowWeight& total, const RowWeight& part, const ScoreScale& scale)
      : kind(part.sum == 0.f    ? kKeep
             : total.sum == 0.f ? kReplace
                                : kAdd),
        keep(1.f),
        add(1.f) {
    if (kind == kReplace) total = part;
    if (kind != kAdd) return;
    const float max = fmaxf(total.max, part.max);
    keep = scale.Power(total.max, max);
    add = scale.Power(part.max, max);
    total = {max, fmaf(total.sum, keep, MulRounded(part.sum, add))};
  }
  __device__ __forceinline__ float operator()(float total, float part) const {
    if (kind == kKeep) return total;
    if (kind == kReplace) return part;
    return fmaf(total, keep, MulRounded(part, add));
  }
};

/// What sums of weighted values are multiplied by at the end.
__device__ __forceinline__ float InverseOf(float sum) { return sum == 0.f ? 0.f : 1.f / sum; }

/// An output; zero where nothing was seen, even if a value there was no number.
template <typename Q>
__device__ __forceinline__ Q OutputOf(float acc, float inverse) {
  return FromFloat<Q>(inverse == 0.f ? 0.f : MulRounded(acc, inverse));
}

// ---- the arguments of a launch ------------------------------------------------------------------

/// Memory for the parts of rows whose segments are dealt to several blocks.
struct PartMemory {
  float* acc;      // [tokens * heads, parts, stride]
  RowWeight* sum;  // [tokens * heads, parts]
  int parts;
  int stride;  // head_dim rounded up to 4

  __device__ __forceinline__ float* Acc(int64_t row, int part) const {
    return acc + (row * parts + part) * stride;
  }
  __device__ __forceinline__ RowWeight* Sum(int64_t row, int part) const {
    return sum + row * parts + part;
  }
};

template <typename Q, typename Source>
struct AttentionArguments {
  Q* out;      // [tokens, heads, head_dim]; may be q
  const Q* q;  // [tokens, heads, head_dim]
  Source source;
  int64_t tokens;
  int heads, head_dim;
  AttentionTiles tiles;
  ScoreScale scale;
  int splits;
  PartMemory parts;  // where splits > 1
};

/// The rows of one block: a run of tokens with the same keys, times neighbouring heads.
struct BlockRows {
  int64_t first_token;
  int tokens, first_head, n_heads;

  __device__ __forceinline__ int count() const { return tokens * n_heads; }
  __device__ __forceinline__ int64_t Token(int row) const { return first_token + row / n_heads; }
  /// Of [tokens, heads].
  __device__ __forceinline__ int64_t Index(int row, int heads) const {
    return Token(row) * heads + first_head + row % n_heads;
  }
};

/// Where a block is in its tile. In shared memory: registers held over the work on a run would be
/// missing there.
struct TileState {
  int64_t first_token;
  int tokens, token, run;
};

/// Calls fn(rows) for each run of tokens that is this block's; blocks [tiles * runs * head_pieces,
/// kv_heads, splits]. Late tiles, which see most keys, begin first.
template <typename Q, typename Source, typename Fn>
__device__ __forceinline__ void ForRuns(const AttentionArguments<Q, Source>& a, Fn fn) {
  __shared__ TileState state;
  if (threadIdx.x == 0) {
    const unsigned tile = blockIdx.x / static_cast<unsigned>(a.tiles.head_pieces * a.tiles.runs);
    const int64_t first = (a.tiles.tiles - 1 - tile) * a.tiles.tokens;
    state = {first, static_cast<int>(min(int64_t{a.tiles.tokens}, a.tokens - first)), 0, 0};
  }
#pragma unroll 1
  while (true) {
    __syncthreads();
    const TileState s = state;
    if (s.token >= s.tokens) return;
    const unsigned pieces = a.tiles.head_pieces, runs = a.tiles.runs;
    const int group = a.heads / static_cast<int>(gridDim.y),
              head = static_cast<int>(blockIdx.x % pieces) * a.tiles.heads;
    const BlockRows rows{
        s.first_token + s.token, RunLength(a.source, s.first_token + s.token, s.tokens - s.token),
        static_cast<int>(blockIdx.y) * group + head, min(a.tiles.heads, group - head)};
    __syncthreads();
    if (threadIdx.x == 0) {
      state.token += rows.tokens;
      ++state.run;
    }
    const bool mine = s.run % runs == blockIdx.x / pieces % runs;
    if (mine && rows.n_heads > 0) fn(rows);
  }
}

/// What all, and what some, of the rows [first, end) of a block see.
struct ViewBounds {
  RowView any{kNoPosition, -1, 0};
  int first = 0, last = kNoPosition;  // seen by all
};
template <typename Source>
__device__ __forceinline__ ViewBounds BoundsOf(const Source& source, const BlockRows& rows,
                                               int first, int end) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  ViewBounds b;
  if (first < end) {
    const int64_t last = rows.Token(end - 1);
    for (int64_t token = rows.Token(first) + lane; token <= last; token += kWarp) {
      const RowView view = source.View(token);
      b.any = {min(b.any.first, view.first), max(b.any.last, view.last),
               max(b.any.sinks, view.sinks)};
      b.first = max(b.first, view.first);
      b.last = min(b.last, view.last);
    }
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const auto other = [&](int v) { return __shfl_xor_sync(kFullWarp, v, offset); };
    b.any = {min(b.any.first, other(b.any.first)), max(b.any.last, other(b.any.last)),
             max(b.any.sinks, other(b.any.sinks))};
    b.first = max(b.first, other(b.first));
    b.last = min(b.last, other(b.last));
  }
  return b;
}

/// Marks the parts that this block may write as empty, before any of them is written.
template <typename Q, typename Source>
__device__ __forceinline__ void ClearParts(const AttentionArguments<Q, Source>& a,
                                           const BlockRows& rows) {
  if (a.splits == 1) return;
  for (int row = 0; row < rows.count(); ++row) {
    const int64_t index = rows.Index(row, a.heads);
    for (int part = static_cast<int>(blockIdx.z + threadIdx.x * gridDim.z); part < a.parts.parts;
         part += static_cast<int>(blockDim.x * gridDim.z)) {
      *a.parts.Sum(index, part) = {Lowest(), 0.f};
    }
  }
  __syncthreads();
}

// ---- the sum of the parts -----------------------------------------------------------------------

inline constexpr int kFoldAtOnce = 4;  // parts whose loads are under way together

/// One warp adds up the parts of a row, in order, for the dimensions [dim, dim + 4) of each lane.
template <typename Q>
__device__ __forceinline__ void FoldRow(Q* out, const PartMemory& parts, int64_t row, int head_dim,
                                        int dim, const ScoreScale& scale) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool mine = dim < head_dim;
  RowWeight total{Lowest(), 0.f};
  float acc[4] = {};
  for (int begin = 0; begin < parts.parts; begin += kWarp) {
    RowWeight weight{Lowest(), 0.f};
    if (begin + lane < parts.parts) weight = *parts.Sum(row, begin + lane);
    unsigned left = __ballot_sync(kFullWarp, weight.sum != 0.f);
    while (left != 0) {
      CudaVector<float, 4> value[kFoldAtOnce];
      int part[kFoldAtOnce];
#pragma unroll
      for (int i = 0; i < kFoldAtOnce; ++i) {
        part[i] = __ffs(static_cast<int>(left)) - 1;  // −1: no more
        left &= left - 1;
        if (part[i] < 0 || !mine) continue;
        value[i] = LoadVector(
            reinterpret_cast<const CudaVector<float, 4>*>(parts.Acc(row, begin + part[i]) + dim));
      }
#pragma unroll
      for (int i = 0; i < kFoldAtOnce; ++i) {
        if (part[i] < 0) continue;
        const RowWeight next{__shfl_sync(kFullWarp, weight.max, part[i]),
                             __shfl_sync(kFullWarp, weight.sum, part[i])};
        const Fold fold(total, next, scale);
        if (!mine) continue;
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[j] = fold(acc[j], value[i].lane[j]);
      }
    }
  }
  const float inverse = InverseOf(total.sum);
  for (int j = 0; j < 4 && dim + j < head_dim; ++j) {
    out[row * head_dim + dim + j] = OutputOf<Q>(acc[j], inverse);
  }
}

template <typename Q>
__global__ void __launch_bounds__(kFoldThreads)
    FoldPartsKernel(Q* out, PartMemory parts, int64_t rows, int head_dim, ScoreScale scale) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * (kFoldThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= rows) return;
  for (int dim = 0; dim < head_dim; dim += 4 * kWarp) {
    FoldRow(out, parts, row, head_dim, dim + 4 * lane, scale);
  }
}

}  // namespace mlf
