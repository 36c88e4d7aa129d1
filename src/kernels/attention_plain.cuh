// Attention of any dtypes and any head_dim in float arithmetic: what tensor cores would round. A
// lane scores one of 32 keys, then gathers 4 of 128 dimensions of the values. A row goes through
// the same operations whatever other rows share its block. Counterpart: attention_mma.cuh.
#pragma once
#include "kernels/attention_state.cuh"

namespace mlf {

inline constexpr int kPlainWarps = 4;
inline constexpr int kPlainStages = 4;
inline constexpr int kPlainBlocks = 3;    // per multiprocessor: shared memory holds no more
inline constexpr int kChunk = 4 * kWarp;  // dimensions per tile of keys or values

/// The dynamic shared memory of a block of `rows` rows. A tile is kChunk dimensions of 32 keys or
/// of their values.
template <typename T>
struct PlainShared {
  static constexpr int kStride = kChunk + kVectorLanes<T>;  // rows 16 bytes apart mod 128
  alignas(16) T tile[kPlainStages][kTileKeys * kStride];
  alignas(16) int32_t positions[kPlainStages][kTileKeys];
  int part[kPlainStages];
  WalkMemory walk[kPlainWarps];
  alignas(16) float q[1];  // [rows, head_dim]

  static constexpr size_t Bytes(int rows, int64_t head_dim) {
    return sizeof(PlainShared) + rows * head_dim * sizeof(float);
  }
};

/// Brings tiles into the ring: the chunks of a page's keys, then one chunk of its values.
template <typename Source>
struct TileFiller {
  const Source& source;
  typename Source::Run run;
  KeyCursor<Source> cursor;
  PlainShared<typename Source::Element>& shared;
  int kv_head, value_dim;
  int filled = 0, step = 0, page = 0;
  bool more = true;

  __device__ __forceinline__ int Steps() const {
    return (source.head_dim + kChunk - 1) / kChunk + 1;
  }

  /// The next tile, if there is one. All threads of the block come here.
  __device__ __forceinline__ void Fill() {
    using T = typename Source::Element;
    constexpr int kStride = PlainShared<T>::kStride;
    const int first = filled / Steps() % kPlainStages;  // where the page's positions are
    if (more && step == 0) {
      int part = 0;
      more = cursor.Next(page, part);
      if (more) {
        source.CopyPositions(shared.positions[first], page);
        if (threadIdx.x == 0) shared.part[first] = part;
      }
    }
    if (more) {
      T* tile = shared.tile[filled % kPlainStages];
      if (step + 1 < Steps()) {
        const int dim = step * kChunk, n = min(kChunk, source.head_dim - dim);
        const KeyTile<T> keys = source.Keys(run, page, kv_head, dim, n);
        if constexpr (Source::kTransposed) {
          CopyTile<kTileKeys>(tile, kTileKeys, keys, source.k_vectors);
        } else {
          CopyTile<kChunk>(tile, kStride, keys, source.k_vectors);
        }
      } else {
        const int n = min(kChunk, source.head_dim - value_dim);
        CopyTile<kChunk>(tile, kStride, source.Values(run, page, kv_head, value_dim, n),
                         source.v_vectors);
      }
      step = step + 1 == Steps() ? 0 : step + 1;
      ++filled;
    }
    CopyAsyncCommit();
  }
};

// ---- one warp -----------------------------------------------------------------------------------

/// Rows warp, warp + 4, … of a block, kR of them, for kChunk dimensions of the output.
template <typename Q, typename Source, int kR>
struct PlainWarp {
  using T = typename Source::Element;
  using Shared = PlainShared<T>;

  const AttentionArguments<Q, Source>& a;
  const BlockRows& rows;
  Shared& shared;
  int value_dim, lane, warp;
  RowView view[kR];
  float s[kR], acc[kR][4] = {}, max[kR], sum[kR] = {}, total_acc[kR][4] = {};
  unsigned visible[kR];  // of the page at hand
  RowWeight total[kR];

  __device__ __forceinline__ PlainWarp(const AttentionArguments<Q, Source>& arguments,
                                       const BlockRows& block_rows, Shared& memory, int dim)
      : a(arguments),
        rows(block_rows),
        shared(memory),
        value_dim(dim),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        warp(static_cast<int>(threadIdx.x) / kWarp) {
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      view[r] = IsUsed(r) ? a.source.View(rows.Token(Row(r))) : SeesNothing();
      total[r] = {Lowest(), 0.f};
      max[r] = Lowest();
      visible[r] = 0;
    }
  }

  __device__ __forceinline__ int Row(int r) const { return warp + r * kPlainWarps; }
  __device__ __forceinline__ bool IsUsed(int r) const { return Row(r) < rows.count(); }
  __device__ __forceinline__ const float* Query(int r) const {
    return shared.q + Row(r) * a.head_dim;
  }

  /// Whether a row sees anything of a page.
  __device__ __forceinline__ bool BeginPage(const int32_t* positions) {
    const int position = positions[lane];
    unsigned any = 0;
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      visible[r] = __ballot_sync(kFullWarp, view[r].Sees(position));
      any |= visible[r];
      s[r] = 0.f;
    }
    return any != 0;
  }

  /// Adds dimensions [dim, dim + n) to the scores: one chain per row and key.
  __device__ __forceinline__ void Score(const T* tile, int dim, int n) {
    constexpr int kN = Source::kTransposed ? 4 : kVectorLanes<T>;
    for (int d = 0; d < n; d += kN) {
      CudaVector<T, kN> key;
      if constexpr (Source::kTransposed) {
#pragma unroll
        for (int i = 0; i < kN; ++i) key.lane[i] = tile[min(d + i, n - 1) * kTileKeys + lane];
      } else {
        key = LoadVector(
            reinterpret_cast<const CudaVector<T, kN>*>(tile + lane * Shared::kStride + d));
      }
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        if (d + i >= n) break;
        const float x = static_cast<float>(key.lane[i]);
#pragma unroll
        for (int r = 0; r < kR; ++r) {
          if (visible[r] != 0) s[r] = fmaf(Query(r)[dim + d + i], x, s[r]);
        }
      }
    }
  }

  /// Turns scores into weights and brings what was gathered to the new maximum.
  __device__ __forceinline__ void Weigh() {
    a.scale.Exponents(s);
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      if (visible[r] == 0) continue;
      const float x = (visible[r] >> lane & 1) != 0 ? s[r] : Lowest();
      float larger = x;
#pragma unroll
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        larger = fmaxf(larger, __shfl_xor_sync(kFullWarp, larger, offset));
      }
      const MaxStep step = RaiseMax(max[r], larger, a.scale);
      s[r] = a.scale.Power(x, step.base);
      sum[r] = fmaf(sum[r], step.factor, s[r]);
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[r][i] = MulRounded(acc[r][i], step.factor);
    }
  }

  /// Adds weights times values. Values that a row does not see take no part, not even as products
  /// with zero: they may be no numbers.
  __device__ __forceinline__ void AddValues(const T* tile) {
    unsigned any = 0;
#pragma unroll
    for (int r = 0; r < kR; ++r) any |= visible[r];
    for (; any != 0; any &= any - 1) {
      const int e = __ffs(static_cast<int>(any)) - 1;
      const auto value = LoadVector(
          reinterpret_cast<const CudaVector<T, 4>*>(tile + e * Shared::kStride + 4 * lane));
#pragma unroll
      for (int r = 0; r < kR; ++r) {
        if ((visible[r] >> e & 1) == 0) continue;
        const float weight = __shfl_sync(kFullWarp, s[r], e);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          acc[r][i] = fmaf(weight, static_cast<float>(value.lane[i]), acc[r][i]);
        }
      }
    }
  }

  // ---- the end of a part ------------------------------------------------------------------------

  __device__ __forceinline__ void StorePart(int part) {
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const RowWeight weight{max[r], WarpSum(sum[r])};
      if (!IsUsed(r)) continue;
      const int64_t index = rows.Index(Row(r), a.heads);
      if (lane == 0) *a.parts.Sum(index, part) = weight;  // the same for all dimensions
      const int dim = value_dim + 4 * lane;
      if (dim >= a.parts.stride) continue;
      *reinterpret_cast<CudaVector<float, 4>*>(a.parts.Acc(index, part) + dim) = {
          {acc[r][0], acc[r][1], acc[r][2], acc[r][3]}};
    }
  }

  __device__ __forceinline__ void FoldIntoTotal() {
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const Fold fold(total[r], {max[r], WarpSum(sum[r])}, a.scale);
#pragma unroll
      for (int i = 0; i < 4; ++i) total_acc[r][i] = fold(total_acc[r][i], acc[r][i]);
    }
  }

  __device__ __forceinline__ void EndPart(int part) {
    if (a.splits == 1) {
      FoldIntoTotal();
    } else {
      StorePart(part);
    }
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      max[r] = Lowest();
      sum[r] = 0.f;
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[r][i] = 0.f;
    }
  }

  __device__ __forceinline__ void Store() const {
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      if (!IsUsed(r)) continue;
      const float inverse = InverseOf(total[r].sum);
      const int dim = value_dim + 4 * lane;
      Q* out = a.out + rows.Index(Row(r), a.heads) * a.head_dim + dim;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (dim + i < a.head_dim) out[i] = OutputOf<Q>(total_acc[r][i], inverse);
      }
    }
  }
};

// ---- one block ----------------------------------------------------------------------------------

/// The outputs [dim, dim + kChunk) of the rows.
template <typename Q, typename Source, int kR>
__device__ __forceinline__ void AttendChunk(const AttentionArguments<Q, Source>& a,
                                            const BlockRows& rows, const RowView& any, int dim,
                                            PlainShared<typename Source::Element>& shared) {
  const auto run = a.source.RunOf(rows.first_token);
  TileFiller<Source> filler{a.source,
                            run,
                            {a.source, run, any, a.splits, shared.walk[threadIdx.x / kWarp]},
                            shared,
                            static_cast<int>(blockIdx.y),
                            dim};
  PlainWarp<Q, Source, kR> warp(a, rows, shared, dim);
  const int steps = filler.Steps();
  int current = -1;
  bool seen = false;
#pragma unroll 1
  for (int i = 1 - kPlainStages;; ++i) {
    int step = 0;
    if (i >= 0) {
      CopyAsyncWait<kPlainStages - 2>();
      __syncthreads();  // what others copied is there, and what they read may be overwritten
      const bool ended = i == filler.filled;
      const int page = i / steps % kPlainStages;
      step = i % steps;
      if (ended || step == 0) {
        const int part = ended ? -1 : shared.part[page];
        if (part != current && current >= 0) warp.EndPart(current);
        current = part;
        if (!ended) seen = warp.BeginPage(shared.positions[page]);
      }
      if (ended) break;
    }
    filler.Fill();
    if (i < 0 || !seen) continue;
    const auto* tile = shared.tile[i % kPlainStages];
    if (step + 1 < steps) {
      warp.Score(tile, step * kChunk, min(kChunk, a.head_dim - step * kChunk));
    } else {
      warp.Weigh();
      warp.AddValues(tile);
    }
  }
  if (a.splits == 1) warp.Store();
}

template <typename Q, typename Source, int kR>
__global__ void __launch_bounds__(kPlainWarps* kWarp, kPlainBlocks)
    PlainAttentionKernel(AttentionArguments<Q, Source> a) {
  using T = typename Source::Element;
  PlainShared<T>& shared = *DynamicShared<PlainShared<T>>();
  ForRuns(a, [&](const BlockRows& rows) __attribute__((always_inline)) {
    ClearParts(a, rows);
    __syncthreads();  // an earlier run may still read the queries
    for (int i = static_cast<int>(threadIdx.x); i < rows.count() * a.head_dim;
         i += kPlainWarps * kWarp) {
      const int row = i / a.head_dim, dim = i % a.head_dim;
      shared.q[i] = static_cast<float>(a.q[rows.Index(row, a.heads) * a.head_dim + dim]);
    }
    __syncthreads();
    const RowView any = BoundsOf(a.source, rows, 0, rows.count()).any;
    for (int dim = 0; dim < a.head_dim; dim += kChunk) {
      AttendChunk<Q, Source, kR>(a, rows, any, dim, shared);
    }
  });
}

}  // namespace mlf
