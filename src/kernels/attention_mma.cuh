// Attention of 16-bit queries, keys and values on tensor cores, for few and for many queries alike:
// a warp has 16 rows or, in long prompts, 32; the keys come 32 at a time through a ring of stages
// in shared memory (Dao, arXiv:2307.08691). A row goes through the same operations whatever other
// rows share its warp, so that a token has the same bits in a prompt, in a chunk of it and alone.
// Counterpart: attention_plain.cuh, for all else.
#pragma once
#include "kernels/attention_fragments.cuh"

namespace mlf {

// ---- one warp -----------------------------------------------------------------------------------

/// kParts times 16 rows of a block, two of each part in each thread: lane / 4 and lane / 4 + 8.
/// Parts share the fragments of keys and values.
template <typename Q, typename Source, int kDim, int kWarps, int kParts>
struct MmaWarp {
  using T = typename Source::Element;
  using Shared = MmaShared<T, kDim, kWarps, kParts, Source::kTransposed>;
  using Stage = MmaStage<T, kDim, Source::kTransposed>;
  using PartScores = float[4][4];  // of one part with 32 keys
  static constexpr int kSteps = kDim / 16, kColumnsOfAll = kDim / 8,
                       kColumns = kColumnsOfAll / kHalves<kDim>, kHeld = Shared::kHeldSteps,
                       kRows = 2 * kParts, kWarpRows = kParts * kMmaRows;
  static_assert(std::is_same_v<Q, T>);

  const AttentionArguments<Q, Source>& a;
  Shared& shared;
  int lane, warp;
  int column;      // the first of kColumns columns of 8 outputs
  int64_t origin;  // of [tokens, heads]: the block's first row,
  int row[kRows];  // and what the thread's rows lie behind it; negative where there is none
  uint32_t q[kParts][kHeld > 0 ? kHeld : 1][4];
  float acc[kParts][kColumns][4] = {}, max[kRows], sum[kRows];
  bool has_total = false;

  __device__ __forceinline__ MmaWarp(const AttentionArguments<Q, Source>& arguments,
                                     const BlockRows& rows, Shared& memory)
      : a(arguments),
        shared(memory),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        warp(static_cast<int>(threadIdx.x) / kWarp),
        column(warp % kHalves<kDim> * kColumns),
        origin(rows.Index(0, arguments.heads)) {
    const int first = FirstRow(), n = rows.count();
    const ViewBounds bounds = BoundsOf(a.source, rows, first, min(first + kWarpRows, n));
    if (lane == 0) shared.views[warp].bounds = bounds;
    if (lane < kWarpRows) {
      shared.views[warp].row[lane] =
          first + lane < n ? a.source.View(rows.Token(first + lane)) : SeesNothing();
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int r = first + lane / 4 + 8 * i;
      max[i] = Lowest();
      sum[i] = 0.f;
      row[i] = r < n ? static_cast<int>(rows.Index(r, a.heads) - origin) : -1;
    }
    LoadQueries();
  }

  __device__ __forceinline__ int FirstRow() const { return warp / kHalves<kDim> * kWarpRows; }
  __device__ __forceinline__ bool IsUsed(int i) const { return row[i] >= 0; }

  __device__ __forceinline__ void LoadQueries() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const Q* from = a.q + (origin + (IsUsed(i) ? row[i] : 0)) * a.head_dim;
      const int n = IsUsed(i) ? a.head_dim : 0;
#pragma unroll
      for (int half = 0; half < kColumnsOfAll; ++half) {
        const int dim = half * 8 + lane % 4 * 2;
        const uint32_t low = dim < n ? from[dim].bits : 0,
                       high = dim + 1 < n ? from[dim + 1].bits : 0, word = low | high << 16;
        if (half / 2 < kHeld) {
          q[i / 2][half / 2][half % 2 * 2 + i % 2] = word;
        } else if (column == 0) {  // read behind the next barrier
          *SharedQueryWord(FirstRow() + lane / 4 + 8 * i, dim) = word;
        }
      }
    }
  }

  __device__ __forceinline__ uint32_t* SharedQueryWord(int r, int dim) const {
    return reinterpret_cast<uint32_t*>(shared.q + r * Shared::kQueryStride + dim - kHeld * 16);
  }

  __device__ __forceinline__ void QueryFragment(uint32_t (&out)[4], int part, int step) const {
    if (step < kHeld) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] = q[part][step][i];
    } else {
      const int matrix = lane / 8, r = FirstRow() + part * kMmaRows + matrix % 2 * 8 + lane % 8;
      LoadMatrix4(out, SharedQueryWord(r, step * 16 + matrix / 2 * 8));
    }
  }

  /// Columns [16 * step, 16 * step + 16) of the keys 8 * j to 8 * j + 15: two fragments.
  __device__ __forceinline__ void KeyFragments(uint32_t (&b)[4], const Stage& stage, int step,
                                               int j) const {
    const int matrix = lane / 8, i = lane % 8;
    if constexpr (Source::kTransposed) {
      const int dim = step * 16 + matrix % 2 * 8 + i, key = (j + matrix / 2) * 8;
      LoadMatrix4Transposed(b, stage.k + dim * Stage::kKeyStride + key);
    } else {
      const int dim = step * 16 + matrix % 2 * 8, key = (j + matrix / 2) * 8 + i;
      LoadMatrix4(b, stage.k + key * Stage::kKeyStride + dim);
    }
  }

  /// Keys [16 * half, 16 * half + 16) of this warp's columns n and n + 1: two fragments.
  __device__ __forceinline__ void ValueFragments(uint32_t (&b)[4], const Stage& stage, int half,
                                                 int n) const {
    const int matrix = lane / 8, key = half * 16 + matrix % 2 * 8 + lane % 8;
    LoadMatrix4Transposed(b, stage.v + key * Stage::kValueStride + (column + n + matrix / 2) * 8);
  }

  __device__ __forceinline__ void Scores(PartScores (&s)[kParts], const Stage& stage) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t query[kParts][4];
#pragma unroll
      for (int part = 0; part < kParts; ++part) QueryFragment(query[part], part, step);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        uint32_t b[4];
        KeyFragments(b, stage, step, j);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          Mma<T>(s[part][j], query[part], {b[0], b[1]});
          Mma<T>(s[part][j + 1], query[part], {b[2], b[3]});
        }
      }
    }
  }

  /// Bit 4 * j + i: whether the row of s[j][i] sees its key.
  __device__ __forceinline__ unsigned Visible(int part, int position) const {
    const RowView* view = shared.views[warp].row + part * kMmaRows + lane / 4;
    const RowView low = view[0], high = view[8];
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int at = __shfl_sync(kFullWarp, position, i / 2 * 8 + lane % 4 * 2 + i % 2),
                bit = i / 2 * 4 + i % 2;
      bits |= static_cast<unsigned>(low.Sees(at)) << bit;
      bits |= static_cast<unsigned>(high.Sees(at)) << (bit + 2);
    }
    return bits;
  }

  /// Turns scores into weights and brings what was gathered to the new maximum.
  __device__ __forceinline__ void Weigh(PartScores& s, int part, unsigned visible) {
    MaxStep step[2];
#pragma unroll
    for (auto& scores : s) a.scale.Exponents(scores);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float larger = Lowest();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          if ((visible >> (4 * j + i) & 1) == 0) s[j][i] = Lowest();
          larger = fmaxf(larger, s[j][i]);
        }
      }
      larger = fmaxf(larger, __shfl_xor_sync(kFullWarp, larger, 1));
      larger = fmaxf(larger, __shfl_xor_sync(kFullWarp, larger, 2));
      step[r] = RaiseMax(max[2 * part + r], larger, a.scale);
      float weights = 0.f;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          s[j][i] = a.scale.Power(s[j][i], step[r].base);
          weights += s[j][i];
        }
      }
      sum[2 * part + r] = fmaf(sum[2 * part + r], step[r].factor, weights);
    }
    if (!__any_sync(kFullWarp, step[0].factor != 1.f || step[1].factor != 1.f)) return;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        acc[part][n][i] = MulRounded(acc[part][n][i], step[i / 2].factor);
      }
    }
  }

  /// Adds weights times values; whether values that are no numbers were left out.
  template <bool kClean>
  __device__ __forceinline__ bool AddValues(const PartScores (&s)[kParts], const Stage& stage) {
    bool left_out = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t weights[kParts][4];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const float (&low)[4] = s[part][2 * half], (&high)[4] = s[part][2 * half + 1];
        weights[part][0] = Pack<T>(low[0], low[1]);
        weights[part][1] = Pack<T>(low[2], low[3]);
        weights[part][2] = Pack<T>(high[0], high[1]);
        weights[part][3] = Pack<T>(high[2], high[3]);
      }
#pragma unroll
      for (int n = 0; n < kColumns; n += 2) {
        uint32_t b[4];
        ValueFragments(b, stage, half, n);
        if constexpr (kClean) {
#pragma unroll
          for (uint32_t& word : b) left_out |= Clean<T>(word);
          __syncwarp();  // or the compiler loads all fragments first, and runs out of registers
        }
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          Mma<T>(acc[part][n], weights[part], {b[0], b[1]});
          Mma<T>(acc[part][n + 1], weights[part], {b[2], b[3]});
        }
      }
    }
    return left_out;
  }

  /// Adds the values that are no numbers to the rows that see them.
  __device__ __forceinline__ void AddNoNumbers(int part, unsigned visible, const Stage& stage) {
    const auto seen = [&](int bit) { return (visible >> bit & 1) != 0 ? 1.f : 0.f; };
#pragma unroll
    for (int n = 0; n < kColumns; n += 2) {
      float counts[2][4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t b[4], ones[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int bit = 8 * half + 4 * (i / 2) + 2 * (i % 2);
          ones[i] = Pack<T>(seen(bit), seen(bit + 1));
        }
        ValueFragments(b, stage, half, n);
#pragma unroll
        for (uint32_t& word : b) {
          word = Pack<T>(CountOf<T>(word & 0xFFFF), CountOf<T>(word >> 16));
        }
        Mma<T>(counts[0], ones, {b[0], b[1]});
        Mma<T>(counts[1], ones, {b[2], b[3]});
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float count = counts[i / 4][i % 4];
        if (count != 0.f) acc[part][n + i / 4][i % 4] += SumOfCounts(count);
      }
      __syncwarp();  // as above
    }
  }

  __device__ __forceinline__ void Attend(const Stage& stage) {
    const int position = stage.positions[lane];
    const ViewBounds bounds = shared.views[warp].bounds;
    if (!__any_sync(kFullWarp, bounds.any.Sees(position))) return;
    const bool all = __all_sync(kFullWarp, position >= bounds.first && position <= bounds.last);
    PartScores s[kParts] = {};
    Scores(s, stage);
    unsigned visible[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      visible[part] = all ? 0xFFFFu : Visible(part, position);
      Weigh(s[part], part, visible[part]);
    }
    if (all) {
      AddValues<false>(s, stage);
    } else if (__any_sync(kFullWarp, AddValues<true>(s, stage))) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) AddNoNumbers(part, visible[part], stage);
    }
  }

  // ---- the end of a part ------------------------------------------------------------------------

  __device__ __forceinline__ RowWeight PartWeight(int i) const {
    float all = sum[i];
    all += __shfl_xor_sync(kFullWarp, all, 1);
    all += __shfl_xor_sync(kFullWarp, all, 2);
    return {max[i], all};
  }

  /// Adds what was gathered to the total, and the total to what was gathered.
  __device__ __forceinline__ void FoldIntoTotal(RowWeight (&total)[kRows]) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const RowWeight gathered[2] = {PartWeight(2 * part), PartWeight(2 * part + 1)};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        total[2 * part + i] =
            has_total ? shared.weight[warp][2 * part + i][lane / 4] : RowWeight{Lowest(), 0.f};
      }
      const Fold fold[2] = {Fold(total[2 * part], gathered[0], a.scale),
                            Fold(total[2 * part + 1], gathered[1], a.scale)};
      if (!has_total) continue;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const CudaVector<float, 4> old = LoadVector(&shared.total[warp][part][n][lane]);
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[part][n][i] = fold[i / 2](old.lane[i], acc[part][n][i]);
      }
    }
  }

  __device__ __forceinline__ void KeepTotal() {
    RowWeight total[kRows];
    FoldIntoTotal(total);
    __syncwarp();  // four lanes have read one weight
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (lane % 4 == 0) shared.weight[warp][i][lane / 4] = total[i];
    }
    __syncwarp();
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const float (&c)[4] = acc[part][n];
        shared.total[warp][part][n][lane] = {{c[0], c[1], c[2], c[3]}};
      }
    }
    has_total = true;
  }

  __device__ __forceinline__ void StorePart(int segment) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const RowWeight weight = PartWeight(i);
      if (!IsUsed(i)) continue;
      const int64_t index = origin + row[i];
      if (lane % 4 == 0 && column == 0) *a.parts.Sum(index, segment) = weight;
      float* out = a.parts.Acc(index, segment);
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const int dim = (column + n) * 8 + lane % 4 * 2;
        if (dim >= a.parts.stride) continue;
        const float* c = acc[i / 2][n] + i % 2 * 2;
        *reinterpret_cast<CudaVector<float, 2>*>(out + dim) = {{c[0], c[1]}};
      }
    }
  }

  __device__ __forceinline__ void EndPart(int segment) {
    if (a.splits == 1) {
      KeepTotal();
    } else {
      StorePart(segment);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      max[i] = Lowest();
      sum[i] = 0.f;
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
        acc[i / 2][n][i % 2 * 2] = acc[i / 2][n][i % 2 * 2 + 1] = 0.f;
    }
  }

  __device__ __forceinline__ void Finish() {
    RowWeight total[kRows];
    FoldIntoTotal(total);
    const bool pairs = a.head_dim % 2 == 0 && reinterpret_cast<uintptr_t>(a.out) % 4 == 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (!IsUsed(i)) continue;
      const float inverse = InverseOf(total[i].sum);
      Q* out = a.out + (origin + row[i]) * a.head_dim;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const int dim = (column + n) * 8 + lane % 4 * 2;
        const float* c = acc[i / 2][n] + i % 2 * 2;
        const Q low = OutputOf<Q>(c[0], inverse), high = OutputOf<Q>(c[1], inverse);
        if (pairs && dim < a.head_dim) {
          *reinterpret_cast<uint32_t*>(out + dim) = low.bits | uint32_t{high.bits} << 16;
          continue;
        }
        if (dim < a.head_dim) out[dim] = low;
        if (dim + 1 < a.head_dim) out[dim + 1] = high;
      }
    }
  }
};

// ---- one block ----------------------------------------------------------------------------------

/// Brings pages into the ring of stages in the order of the walk.
template <typename Source, typename Shared>
struct StageFiller {
  const Source& source;
  typename Source::Run run;
  KeyCursor<Source> cursor;
  Shared& shared;
  int kv_head, filled = 0;
  bool more = true;

  /// The next page, if there is one. All threads of the block come here.
  template <int kDim>
  __device__ __forceinline__ void Fill() {
    int page = 0, part = 0;
    if (more) more = cursor.Next(page, part);
    if (more) {
      auto& stage = shared.stage[filled % Shared::kStages];
      constexpr int kKeyColumns = Source::kTransposed ? kTileKeys : kDim;
      CopyTile<kKeyColumns>(stage.k, stage.kKeyStride,
                            source.Keys(run, page, kv_head, 0, source.head_dim), source.k_vectors);
      CopyTile<kDim>(stage.v, stage.kValueStride,
                     source.Values(run, page, kv_head, 0, source.head_dim), source.v_vectors);
      source.CopyPositions(stage.positions, page);
      if (threadIdx.x == 0) shared.part[filled % Shared::kStages] = part;
      ++filled;
    }
    CopyAsyncCommit();
  }
};

template <typename Q, typename Source, int kDim, int kWarps, int kParts>
__device__ __forceinline__ void AttendRun(
    const AttentionArguments<Q, Source>& a, const BlockRows& rows,
    MmaShared<typename Source::Element, kDim, kWarps, kParts, Source::kTransposed>& shared) {
  using Shared = MmaShared<typename Source::Element, kDim, kWarps, kParts, Source::kTransposed>;
  constexpr int kStages = Shared::kStages;
  ClearParts(a, rows);
  const auto run = a.source.RunOf(rows.first_token);
  const RowView any = BoundsOf(a.source, rows, 0, rows.count()).any;
  StageFiller<Source, Shared> filler{
      a.source,
      run,
      {a.source, run, any, a.splits, shared.walk[threadIdx.x / kWarp]},
      shared,
      static_cast<int>(blockIdx.y)};
  MmaWarp<Q, Source, kDim, kWarps, kParts> warp(a, rows, shared);
  int current = -1;
#pragma unroll 1
  for (int i = 1 - kStages;; ++i) {
    int part = -1;
    if (i >= 0) {
      CopyAsyncWait<kStages - 2>();
      __syncthreads();  // what others copied is there, and what they read may be overwritten
      const bool ended = i == filler.filled;
      if (!ended) part = shared.part[i % kStages];
      if (part != current && current >= 0 && !(ended && a.splits == 1)) warp.EndPart(current);
      if (ended) break;
      current = part;
    }
    filler.template Fill<kDim>();
    if (i >= 0) warp.Attend(shared.stage[i % kStages]);
  }
  if (a.splits == 1) warp.Finish();
}

template <typename Q, typename Source, int kDim, int kWarps, int kParts>
__global__ void __launch_bounds__(kWarps* kWarp)
    MmaAttentionKernel(AttentionArguments<Q, Source> a) {
  using Shared = MmaShared<typename Source::Element, kDim, kWarps, kParts, Source::kTransposed>;
  Shared& shared = *DynamicShared<Shared>();
  // Columns from head_dim on are never copied to, and count as zeros.
  auto* words = reinterpret_cast<uint32_t*>(shared.stage);
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(sizeof shared.stage / 4);
       i += kWarps * kWarp) {
    words[i] = 0;
  }
  __syncthreads();
  ForRuns(a, [&](const BlockRows& rows) __attribute__((always_inline)) {
    AttendRun<Q, Source, kDim, kWarps, kParts>(a, rows, shared);
  });
}

}  // namespace mlf
