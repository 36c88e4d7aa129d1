// Micro-kernels of the matmul over tiles. Counterparts: linear_simd.h, linear.cc.
#include "kernels/linear_simd.h"

#include "kernels/block_dot.h"
#include "kernels/turned_words.h"

// An output element is one chain over the tiles of its row, with the same operations whatever the
// shape of the register tile (T tokens, G groups): results do not depend on how work is cut.
//   block formats: y = fma(float(dot), d * xs, y), then with minima y = fma(m, xs * sum(x), y)
//   with scales for half blocks: v = float(dot0) * d0, v = fma(float(dot1), d1, v), with minima
//     v = fma(m0, sum0(x), v), v = fma(m1, sum1(x), v); then y = fma(v, xs, y)
//   float formats: y = fma(w, x, y)
namespace mlf::MLF_LEVEL {
namespace {

// The largest register tiles: tokens (halved for the rest of a batch) and groups. Chosen by
// benchmarks/native/bench_linear.cc; narrow levels fill their registers with one group.
#if defined(__AVX512F__)
constexpr int kBlockTokens = 4, kFloatTokens = 8, kGroups = 2;
#elif defined(__AVX2__)
constexpr int kBlockTokens = 4, kFloatTokens = 4, kGroups = 1;
#else
constexpr int kBlockTokens = 2, kFloatTokens = 2, kGroups = 1;
#endif
constexpr int64_t kAheadBytes = 4096;  // of weights, for a single token: a page
// Groups at once for a single token of a float format: one chain of multiply-adds alone, 32 bytes
// of weights to a step, would be slower than memory.
constexpr int kStreams = 2;

/// Weights of a row that a register tile takes at once, and the bytes of 16 rows of them.
template <typename F>
inline constexpr int64_t kStepWeights = kIsBlockFormat<F> ? kQuantBlock : 1;
template <typename F>
inline constexpr int64_t kStepBytes = kTileBytes<F> * kStepWeights<F> / F::kWeights;

/// What a register tile reads along k, and what it prefetches meanwhile: `ahead_step` bytes of
/// later weights at each step, where a batch's share of them is less than a line often the same.
struct Operands {
  const uint8_t* tiles;
  int64_t group_bytes;
  const uint8_t* x;
  int64_t x_row_bytes;
  const uint8_t* ahead;
  int64_t ahead_step;

  /// One to kLines lines. No loop: one inside the loop over k would keep GCC from holding the sums
  /// in registers.
  template <int kLines, int kLine = 0>
  MLF_TILE_METHOD void Prefetch() {
    __builtin_prefetch(ahead + kLine * 64);
    if constexpr (kLine + 1 < kLines) {
      if ((kLine + 1) * 64 < ahead_step) return Prefetch<kLines, kLine + 1>();
    }
    ahead += ahead_step;
  }
};

template <int T, int G>
struct Sums {
  F32 of[T][G];

  MLF_TILE_METHOD void Clear() {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) of[t][g] = Zero();
    }
  }
};

/// The sum of the integers of half h of kSums.
template <int kSums, typename Block>
MLF_INLINE int32_t SumOf(const Block& x, int h) {
  if constexpr (kSums == 1) return x.sum;
  return h == 0 ? x.half_sum : x.sum - x.half_sum;
}

/// The exact integer part of one block: G tiles times T blocks of activations; the same lines of
/// all tiles are group_bytes apart. Two planes are one after the other in the same sums:
/// (high * w) << 8, plus low * w.
template <typename F, int T, int G>
struct BlockProducts {
  static constexpr int kPlanes = F::kPlanes, kSums = F::kSums;
  static_assert(kPlanes == 1 || F::kOffset == 0, "two planes take no offset off");
  using Block = ActivationBlock<kPlanes>;
  using Dot = BlockDot<F::kMaxQuant, F::kOffset, 8 / kSums>;
  Dot of[kSums][T][G];

  template <typename Fn>
  MLF_TILE_METHOD void ForEach(Fn fn) {
#pragma GCC unroll 2
    for (int h = 0; h < kSums; ++h) {
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) fn(of[h][t][g], h, t);
      }
    }
  }

  template <int kPlane>
  MLF_TILE_METHOD void AddLine(const uint8_t* lines, int64_t group_bytes, const Block* const* x,
                               int j) {
    Bytes w[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      w[g] = Dot::Weights(F::template Line<Bytes>(lines + g * group_bytes, j));
    }
    Dot(&sums)[T][G] = of[j * kSums / 8];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const NativeU8 four = SplatBytes(x[t]->q[kPlane] + 4 * j);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) sums[t][g].Add(w[g], four);
    }
  }

  template <int kPlane>
  MLF_TILE_METHOD void AddPlane(const uint8_t* lines, int64_t group_bytes, const Block* const* x) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {  // two lines that share their bytes in 4-bit formats
      AddLine<kPlane>(lines, group_bytes, x, j);
      AddLine<kPlane>(lines, group_bytes, x, j + 4);
      ForEach([&](Dot& dot, int, int) MLF_TILE_LAMBDA { dot.EndLines((2 * j + 2) / kSums); });
    }
  }

  MLF_TILE_METHOD void Compute(const uint8_t* lines, int64_t group_bytes, const Block* const* x) {
    ForEach([&](Dot& dot, int h, int t)
                MLF_TILE_LAMBDA { dot.Start(kPlanes == 1 ? SumOf<kSums>(*x[t], h) : 0); });
    AddPlane<0>(lines, group_bytes, x);
    if constexpr (kPlanes == 2) {
      ForEach([](Dot& dot, int, int) MLF_TILE_LAMBDA { dot.Times256(); });
      AddPlane<1>(lines, group_bytes, x);
    }
  }
};

/// Where the lines of block b of a tile are read from, and its scales.
template <typename F>
MLF_INLINE const uint8_t* LinesOf(const uint8_t* tile, [[maybe_unused]] int b) {
  if constexpr (kTileBlocks<F> == 1) {
    return tile;
  } else {
    return tile + F::kHeadBytes + b * (F::kLines * kLineBytes);
  }
}
template <typename F>
MLF_INLINE quant::SubScales<F32, F::kSums> ScalesOf(const uint8_t* tile, [[maybe_unused]] int b) {
  if constexpr (kTileBlocks<F> > 1) {
    return F::template Scales<Lanes>(tile, b);
  } else if constexpr (requires { F::template Scales<Lanes>(tile); }) {
    return {{F::template Scales<Lanes>(tile)}, {}};
  } else if constexpr (F::kHasMin) {
    return {{Lanes::Halves(tile)}, {Lanes::Halves(tile + kScaleBytes)}};
  } else {
    return {{Lanes::Halves(tile)}, {}};
  }
}

/// y plus one block's product for one token and group.
template <typename F, typename Block>
MLF_INLINE F32 AddProduct(F32 y, const F32* dots, const quant::SubScales<F32, F::kSums>& scales,
                          const Block& x) {
  const F32 xs = Set(x.scale);
  if constexpr (F::kSums == 1) {
    y = Fma(dots[0], scales.d[0] * xs, y);
    return F::kHasMin ? Fma(scales.m[0], Set(x.scaled_sum), y) : y;
  } else {
    F32 v = Fma(dots[1], scales.d[1], dots[0] * scales.d[0]);
    if constexpr (F::kHasMin) {
      v = Fma(scales.m[0], ToFloat(SplatI32(SumOf<2>(x, 0))), v);
      v = Fma(scales.m[1], ToFloat(SplatI32(SumOf<2>(x, 1))), v);
    }
    return Fma(v, xs, y);
  }
}

template <typename F, int T, int G>
MLF_INLINE void AccumulateBlocks(Sums<T, G>& y, Operands a, int64_t cols) {
  using Block = ActivationBlock<F::kPlanes>;
  const uint8_t* tile = a.tiles;
  const uint8_t* x_row = a.x;
  int b = 0;  // of the tile
  for (int64_t k = 0; k < cols; k += kQuantBlock) {
    const Block* x[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      x[t] = reinterpret_cast<const Block*>(x_row + t * a.x_row_bytes);
    }
    a.template Prefetch<(G * kStepBytes<F> + 63) / 64>();
    BlockProducts<F, T, G> products;
    products.Compute(LinesOf<F>(tile, b), a.group_bytes, x);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const auto scales = ScalesOf<F>(tile + g * a.group_bytes, b);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        F32 dots[F::kSums];
#pragma GCC unroll 2
        for (int h = 0; h < F::kSums; ++h) {
          dots[h] = ToFloat(products.of[h][t][g].Total(SumOf<F::kSums>(*x[t], h)));
        }
        y.of[t][g] = AddProduct<F>(y.of[t][g], dots, scales, *x[t]);
      }
    }
    b = (b + 1) % kTileBlocks<F>;
    tile += b == 0 ? kTileBytes<F> : 0;
    x_row += sizeof(Block);
  }
}

/// y = fma(w, x, y) for one k.
template <typename F, int T, int G>
MLF_INLINE void AddColumn(Sums<T, G>& y, const uint8_t* tile, int64_t group_bytes, const float* x,
                          int64_t x_stride) {
  F32 w[G];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
    w[g] = Load(reinterpret_cast<const typename F::Value*>(tile + g * group_bytes));
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    const F32 xk = Set(x[t * x_stride]);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) y.of[t][g] = Fma(w[g], xk, y.of[t][g]);
  }
}

template <typename F, int T, int G>
MLF_INLINE void AccumulateFloats(Sums<T, G>& y, Operands a, int64_t cols) {
  const uint8_t* tile = a.tiles;
  const float* x = reinterpret_cast<const float*>(a.x);
  const int64_t x_stride = a.x_row_bytes / static_cast<int64_t>(sizeof(float));
  for (int64_t k = 0; k < cols; ++k, tile += kTileBytes<F>) {
    a.template Prefetch<(G * kTileBytes<F> + 63) / 64>();
    AddColumn<F>(y, tile, a.group_bytes, x + k, x_stride);
  }
}

/// The same for one token, whose G groups lie apart, so that each begins a stream of groups: asked
/// for a page ahead, beyond the end of a group too.
template <typename F, int G>
MLF_INLINE void AccumulateStreams(Sums<1, G>& y, Operands a, int64_t cols) {
  const uint8_t* tile = a.tiles;
  const float* x = reinterpret_cast<const float*>(a.x);
  for (int64_t k = 0; k < cols; ++k, tile += kTileBytes<F>) {
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) __builtin_prefetch(tile + g * a.group_bytes + kAheadBytes);
    AddColumn<F>(y, tile, a.group_bytes, x + k, 0);
  }
}

// ---- rows in the file's layout ------------------------------------------------------------------

/// Columns of a float format that make kTurnedWords words.
template <typename Value>
inline constexpr int kTurnedColumns = kTurnedWords * 4 / static_cast<int>(sizeof(Value));

MLF_INLINE void Widen(F32* w, I32 words, const float*) { w[0] = BitsToFloat(words); }
MLF_INLINE void Widen(F32* w, I32 words, const BF16*) {
  w[0] = BitsToFloat(ShiftLeft(words, 16));
  w[1] = BitsToFloat(Map<I32>([&](int p) { return words.part[p] & ~0xFFFF; }));
}
MLF_INLINE void Widen(F32* w, I32 words, const F16*) {
  F16 halves[2][kLanes];
  StoreHalfWords(reinterpret_cast<uint8_t*>(halves[0]), reinterpret_cast<uint8_t*>(halves[1]),
                 words);
  w[0] = Load(halves[0]);
  w[1] = Load(halves[1]);
}

/// y = fma(w, x, y) over columns [k, k + kColumns), whose weights are in registers.
template <int T, int kColumns>
MLF_INLINE void AddColumns(Sums<T, 1>& y, const F32* w, const float* x, int64_t x_stride) {
#pragma GCC unroll 8
  for (int i = 0; i < kColumns; ++i) {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) y.of[t][0] = Fma(w[i], Set(x[t * x_stride + i]), y.of[t][0]);
  }
}

/// AccumulateFloats over 16 rows as they stand in the file.
template <typename F, int T>
MLF_INLINE void AccumulateRows(Sums<T, 1>& y, const uint8_t* rows, const float* x, int64_t x_stride,
                               int64_t cols) {
  using Value = typename F::Value;
  constexpr int kColumns = kTurnedColumns<Value>, kPerWord = kColumns / kTurnedWords;
  const int64_t row_bytes = cols * F::kBytes;
  int64_t k = 0;
  for (; k + kColumns <= cols; k += kColumns, x += kColumns) {
    const uint8_t* at = rows + k * F::kBytes;
    const TurnedWords words = LoadTurned(at, row_bytes);
    F32 w[kColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kTurnedWords; ++j) {
      Widen(w + kPerWord * j, words.of[j], static_cast<const Value*>(nullptr));
    }
    AddColumns<T, kColumns>(y, w, x, x_stride);
  }
  for (; k < cols; ++k, ++x) {
    Value lanes[kLanes];
    for (int r = 0; r < kLanes; ++r) {
      std::memcpy(&lanes[r], rows + r * row_bytes + k * F::kBytes, F::kBytes);
    }
    const F32 w = Load(lanes);
    AddColumns<T, 1>(y, &w, x, x_stride);
  }
}

/// Sixteen outputs of one token, fewer in the last group.
MLF_INLINE void StoreGroup(const LinearTask& task, int64_t group, int64_t token, F32 y) {
  const int64_t row = group * kTileRows, left = task.rows - row;
  float* out = task.out + token * task.rows + row;
  const float* bias = task.bias == nullptr ? nullptr : task.bias + row;
  if (left >= kTileRows) {
    Store(out, bias == nullptr ? y : y + Load(bias));
  } else {
    const int n = static_cast<int>(left);
    StorePartial(out, bias == nullptr ? y : y + LoadPartial(bias, n), n);
  }
}

template <typename F, int T, int G>
void ComputeTile(const LinearTask& task, const uint8_t* tiles, int64_t group, int64_t token,
                 const uint8_t*& ahead, int64_t ahead_step) {
  const Operands operands{.tiles = tiles,
                          .group_bytes = task.group_bytes,
                          .x = task.x + token * task.x_row_bytes,
                          .x_row_bytes = task.x_row_bytes,
                          .ahead = ahead,
                          .ahead_step = ahead_step};
  ahead += task.cols / kStepWeights<F> * ahead_step;
  Sums<T, G> y;
  y.Clear();
  if constexpr (kIsBlockFormat<F>) {
    AccumulateBlocks<F, T, G>(y, operands, task.cols);
  } else {
    AccumulateFloats<F>(y, operands, task.cols);
  }
  for (int g = 0; g < G; ++g) {
    for (int t = 0; t < T; ++t) StoreGroup(task, group + g, token + t, y.of[t][g]);
  }
}

/// Tokens [begin, end) by register tiles of T, then T / 2, … 1.
template <typename F, int T, int G>
MLF_INLINE void ComputeTokens(const LinearTask& task, const uint8_t* tiles, int64_t group,
                              int64_t begin, int64_t end, const uint8_t* ahead,
                              int64_t ahead_step) {
  for (; begin + T <= end; begin += T) {
    ComputeTile<F, T, G>(task, tiles, group, begin, ahead, ahead_step);
  }
  if constexpr (T > 1) {
    ComputeTokens<F, T / 2, G>(task, tiles, group, begin, end, ahead, ahead_step);
  }
}

/// One token of a float format, group by group of kStreams parts of the groups side by side.
/// Returns how many groups that were.
template <typename F>
MLF_INLINE int64_t ComputeStreams(const LinearTask& task, const uint8_t* tiles, int64_t group,
                                  int64_t groups, int64_t token) {
  const int64_t apart = groups / kStreams;
  Operands operands{.tiles = tiles,
                    .group_bytes = apart * task.group_bytes,
                    .x = task.x + token * task.x_row_bytes,
                    .x_row_bytes = task.x_row_bytes,
                    .ahead = nullptr,
                    .ahead_step = 0};
  for (int64_t i = 0; i < apart; ++i, operands.tiles += task.group_bytes) {
    Sums<1, kStreams> y;
    y.Clear();
    AccumulateStreams<F>(y, operands, task.cols);
    for (int g = 0; g < kStreams; ++g) StoreGroup(task, group + i + g * apart, token, y.of[0][g]);
  }
  return apart * kStreams;
}

/// ComputeTokens for one group of whole rows.
template <typename F, int T>
MLF_INLINE void ComputeRows(const LinearTask& task, const uint8_t* rows, int64_t group,
                            int64_t begin, int64_t end) {
  const int64_t x_stride = task.x_row_bytes / 4;
  for (; begin + T <= end; begin += T) {
    Sums<T, 1> y;
    y.Clear();
    AccumulateRows<F, T>(y, rows, reinterpret_cast<const float*>(task.x) + begin * x_stride,
                         x_stride, task.cols);
    for (int t = 0; t < T; ++t) StoreGroup(task, group, begin + t, y.of[t][0]);
  }
  if constexpr (T > 1) ComputeRows<F, T / 2>(task, rows, group, begin, end);
}

/// Register tiles that `tokens` make.
constexpr int64_t TileCount(int64_t tokens, int64_t largest) {
  return tokens / largest + __builtin_popcountll(tokens % largest);
}

}  // namespace

void LinearGroups(const LinearTask& task, const uint8_t* tiles, int64_t group, int64_t groups,
                  int64_t begin, int64_t end) {
  DispatchFormat(task.format, [&]<typename Stored>() {
    using F = typename ReadTiles<Stored>::Format;
    const int64_t last = group + groups;
    // One token waits for memory: few streams, prefetched a page ahead.
    if (end - begin == 1) {
      if constexpr (!kIsBlockFormat<F>) {
        const int64_t done = ComputeStreams<F>(task, tiles, group, groups, begin);
        group += done;
        tiles += done * task.group_bytes;
      }
      for (; group < last; ++group, tiles += task.group_bytes) {
        ComputeTokens<F, 1, 1>(task, tiles, group, begin, end, tiles + kAheadBytes, kStepBytes<F>);
      }
      return;
    }
    // A batch brings the next groups into the cache while it computes with these, if they exist.
    constexpr int kTokens = kIsBlockFormat<F> ? kBlockTokens : kFloatTokens;
    const int64_t bytes = kGroups * task.group_bytes, share = TileCount(end - begin, kTokens);
    const int64_t step = task.tiled ? (kGroups * kStepBytes<F> + share - 1) / share : 0;
    for (; group + kGroups <= last; group += kGroups, tiles += bytes) {
      ComputeTokens<F, kTokens, kGroups>(task, tiles, group, begin, end, tiles + bytes, step);
    }
    if (group < last) ComputeTokens<F, kTokens, 1>(task, tiles, group, begin, end, tiles, 0);
  });
}

void LinearRows(const LinearTask& task, const uint8_t* rows, int64_t group, int64_t begin,
                int64_t end) {
  DispatchFormat(task.format, [&]<typename F>() {
    if constexpr (!kIsBlockFormat<F>) {
      ComputeRows<F, kFloatTokens>(task, rows, group, begin, end);
    }
  });
}

}  // namespace mlf::MLF_LEVEL
