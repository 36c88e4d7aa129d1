// Many tokens times a weight of blocks on CUDA: tiles on tensor cores. Counterparts: linear.cu
// (chooses this), linear_launch.h (sizes, and why they are these), linear_blocks.cuh (decoding),
// linear_outputs.cuh (the end of a tile).
//
// A block of threads makes 256 or 128 tokens by 128 outputs. Activations come as tiles of bfloat16,
// rows of the weight as they are, a chunk of k ahead; they are decoded to a tile of bfloat16 for
// the next step while tensor cores multiply the tiles of this one:
//
//   x of step s + 1 or s + 2: global -> tile          chunk c + 1: global -> shared
//   weights of step s + 1:    shared -> registers -> tile     step s: tiles -> tensor cores
//
// Activations and weights are rounded to bfloat16, to nearest even, so an output is off by at most
// (2^-8 + 2^-18) of its sum of magnitudes, sum_k |x_k w_k|, typically by a few times
// 2^-9 / sqrt(cols) of it; sums are float32. Each output is one sum over k in one order.
#include "kernels/linear_outputs.cuh"

namespace mlf::cuda_linear {
namespace {

struct TileTask {
  Floats out, x, bias;
  const uint8_t* weight;
  int64_t weight_bytes, row_bytes, tokens, rows, cols;
  int64_t token_tiles, output_tiles;
  int stages;
};

/// 16-byte word `word` of a row of a tile. The words of rows stand in different orders, so that
/// matrix loads, of eight rows each, meet every bank once, and so do the threads that write.
template <typename Shape>
__device__ inline uint8_t* TileWord(uint8_t* tile, int row, int word) {
  constexpr int kWords = Shape::kRowWords, kRowsOfBanks = 8 / kWords;
  return tile + (row * kWords + (word ^ (row / kRowsOfBanks % kWords))) * kWord;
}

__device__ inline uint4 EightAsBF16(const float* v) {
  const auto pair = [&](int i) { return PairOf(BF16::From(v[i]), BF16::From(v[i + 1])); };
  return make_uint4(pair(0), pair(2), pair(4), pair(6));
}

// ---- tensor cores -------------------------------------------------------------------------------

/// What a warp multiplies at once: 64 tokens by 64 outputs, 16 of k.
struct Fragments {
  uint32_t x[kTilesM][4], w[kTilesN][2];

  template <typename Shape>
  __device__ __forceinline__ void Load(uint8_t* x_tile, uint8_t* w_tile, int part, int lane) {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {  // matrices: rows 0 … 7, 8 … 15, then the next columns
      LoadMatrix4(x[m], TileWord<Shape>(x_tile, m * kMmaM + lane % 16, 2 * part + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < kTilesN; n += 2) {  // outputs 0 … 7 in both halves of k, then 8 … 15
      uint32_t r[4];
      LoadMatrix4(r, TileWord<Shape>(w_tile, n * kMmaN + lane % 8 + lane / 16 * 8,
                                     2 * part + lane / 8 % 2));
      w[n][0] = r[0];
      w[n][1] = r[1];
      w[n + 1][0] = r[2];
      w[n + 1][1] = r[3];
    }
  }

  __device__ __forceinline__ void MultiplyInto(WarpSums& sums) const {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
      for (int n = 0; n < kTilesN; ++n) MmaBf16(sums[m][n], x[m], w[n]);
    }
  }
};

/// The products of one step; fragments are loaded while the ones before are multiplied. Tiles begin
/// at the warp's rows.
template <typename Shape>
__device__ __forceinline__ void MultiplyTiles(uint8_t* x, uint8_t* w, int lane, WarpSums& sums) {
  constexpr int kParts = Shape::kK / kMmaK;
  Fragments fragments[2];
  fragments[0].Load<Shape>(x, w, 0, lane);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (part + 1 < kParts) fragments[(part + 1) % 2].Load<Shape>(x, w, part + 1, lane);
    fragments[part % 2].MultiplyInto(sums);
  }
}

// ---- what becomes tiles -------------------------------------------------------------------------

/// What the threads of a block bring for its tiles.
template <typename F, typename Shape>
struct TileLoader {
  static constexpr int kChunk = TileChunk<F>(), kBytes = ChunkBytes<F>(kChunk);
  static constexpr int kStride = RowStride(kBytes), kSteps = kChunk / Shape::kK;

  const TileTask& task;
  uint8_t* raw;  // [2, kTileOutputs, kStride]
  int64_t first_token, first_output;
  int thread;

  __device__ const uint8_t* Source(int r, int chunk) const {
    return task.weight + (first_output + r) * task.row_bytes + int64_t{chunk} * kBytes;
  }
  __device__ uint8_t* Raw(int chunk, int r) const {
    return raw + (chunk % 2 * kTileOutputs + r) * kStride;
  }

  /// Begins to copy a chunk of all rows: four threads a row, so that a warp reads whole sectors.
  __device__ void CopyChunk(int chunk) const {
    const int64_t left = task.cols - int64_t{chunk} * kChunk;
    if (left <= 0) return;
    const int blocks = static_cast<int>((left < kChunk ? left : kChunk) / F::kWeights);
#pragma unroll 1
    for (int r = thread / 4; r < kTileOutputs; r += Shape::kThreads / 4) {
      if (first_output + r >= task.rows) break;
      CopyRow<kBytes, 4>(Raw(chunk, r), Source(r, chunk), blocks * static_cast<int>(F::kBytes),
                         thread % 4, task.weight, task.weight + task.weight_bytes);
    }
  }

  /// Whether x is copied as it is.
  __device__ bool CopiesX() const { return task.x.aligned && task.x.type == FloatType::kBF16; }

  /// Brings x of a step: begins to copy it, or converts it. What is not there is zeros.
  template <bool kConvert>
  __device__ __forceinline__ void BringX(int step, uint8_t* tile) const {
    const int word = thread % Shape::kRowWords;
    const int64_t k = int64_t{step} * Shape::kK + word * 8;
#pragma unroll 2
    for (int row = thread / Shape::kRowWords; row < Shape::kTokens;
         row += Shape::kThreads / Shape::kRowWords) {
      const int64_t token = first_token + row;
      const bool valid = token < task.tokens && k < task.cols;
      const int64_t at = valid ? token * task.cols + k : 0;
      uint8_t* to = TileWord<Shape>(tile, row, word);
      if constexpr (kConvert) {
        float v[8] = {};
        if (valid) LoadEight(task.x, at, v);
        *reinterpret_cast<uint4*>(to) = EightAsBF16(v);
      } else {
        CopyAsync16(to, task.x.data + at * 2, valid);
      }
    }
  }

  /// The weights of a step from what was copied, 32 by each thread.
  __device__ __forceinline__ void Decode(int step, uint8_t* tile) const {
    constexpr int kBlock = static_cast<int>(kQuantBlock), kWords = kBlock / 8;
    const int row = thread / Shape::kParts, part = thread % Shape::kParts;
    const int chunk = step / kSteps;
    const int block = step % kSteps * Shape::kParts + part;
    const bool valid =
        first_output + row < task.rows && int64_t{chunk} * kChunk + block * kBlock < task.cols;
    const uint8_t* from = Raw(chunk, row) + PlaceInWord(Source(row, chunk));
#pragma unroll 1  // both at once would run out of registers
    for (int half = 0; half < 2; ++half) {
      float w[16] = {};
      if (valid) DecodeBlock<F>(BlockOf<F>(from, block), PartOf<F>(block) * kBlock + 16 * half, w);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<uint4*>(TileWord<Shape>(tile, row, part * kWords + half * 2 + i)) =
            EightAsBF16(w + 8 * i);
      }
    }
  }
};

// ---- one block ----------------------------------------------------------------------------------

/// The products of a block's tile, step by step. Of the two warps of each scheduler one decodes
/// while the other multiplies, then the other way round: either way a step's tiles are made before
/// the barrier that begins it.
template <typename F, typename Shape>
__device__ __forceinline__ void MultiplyBlock(const TileLoader<F, Shape>& loader, uint8_t* tiles,
                                              int first_token, int first_output, WarpSums& sums) {
  constexpr int kRow = Shape::kRowWords * kWord;
  const TileTask& task = loader.task;
  uint8_t* x_tiles = tiles + 2 * Shape::kWeightBytes;
  const int stages = task.stages, order = loader.thread / (4 * kWarp) % 2;
  const bool copies = loader.CopiesX();
  const int steps = static_cast<int>((task.cols + Shape::kK - 1) / Shape::kK);
  const auto bring = [&](int step, int stage, bool copy) __attribute__((always_inline)) {
    uint8_t* tile = x_tiles + stage * Shape::kXBytes;
    if (step >= steps || copy != copies) return;
    copy ? loader.template BringX<false>(step, tile) : loader.template BringX<true>(step, tile);
  };
  loader.CopyChunk(0);
  if (stages == 3) {
    bring(0, 0, true);
    bring(0, 0, false);
    CopyAsyncCommit();
  }
  CopyAsyncCommit();
  int ahead = stages - 2, stage = stages - 1;  // of x that comes, and that is multiplied
#pragma unroll 1
  for (int step = -1; step < steps; ++step) {
    stages == 3 ? CopyAsyncWait<1>() : CopyAsyncWait<0>();
    __syncthreads();  // tiles of this step are there, those of the step before are read
    const int next = step + 1;
    bring(step + stages - 1, ahead, true);
    if (next % loader.kSteps == 0) loader.CopyChunk(next / loader.kSteps + 1);
    CopyAsyncCommit();
#pragma unroll 1
    for (int phase = 0; phase < 2; ++phase) {
      if (phase != order) {
        if (step < 0) continue;
        MultiplyTiles<Shape>(x_tiles + stage * Shape::kXBytes + first_token * kRow,
                             tiles + step % 2 * Shape::kWeightBytes + first_output * kRow,
                             loader.thread % kWarp, sums);
      } else if (next < steps) {
        loader.Decode(next, tiles + next % 2 * Shape::kWeightBytes);
        bring(step + stages - 1, ahead, false);
      }
    }
    stage = stage + 1 == stages ? 0 : stage + 1;
    ahead = ahead + 1 == stages ? 0 : ahead + 1;
  }
}

template <typename F, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 256 / Shape::kThreads)
    TokenTilesKernel(TileTask task) {
  auto* shared = DynamicShared<uint8_t>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const TileAt at = TileOfBlock(blockIdx.x, task.token_tiles, task.output_tiles);
  const TileLoader<F, Shape> loader{task, shared, at.tokens * Shape::kTokens,
                                    at.outputs * kTileOutputs, thread};
  constexpr int kWarpsOver = Shape::kTokens / kWarpTokens;
  const int first_token = warp % kWarpsOver * kWarpTokens,
            first_output = warp / kWarpsOver * kWarpOutputs;
  WarpSums sums = {};
  MultiplyBlock(loader, shared + 2 * TileRawBytes<F>(), first_token, first_output, sums);
  CopyAsyncWait<0>();
  __syncthreads();  // tiles are read, and make room for sums
  const Outputs outputs{task.out, task.bias, task.tokens, task.rows};
  outputs.Store(sums, reinterpret_cast<float*>(shared) + warp * kStagedFloats,
                loader.first_token + first_token, loader.first_output + first_output, lane);
}

template <typename F, typename Shape>
void LaunchTiles(const CudaCall& call, const Product& p) {
  const int stages = TileStages<F, Shape>(call.compute_capability());
  const TileTask task{.out = FloatsOf(p.out, p.rows),
                      .x = FloatsOf(p.x, p.cols),
                      .bias = FloatsOf(p.bias, p.rows),
                      .weight = p.weight,
                      .weight_bytes = p.weight_bytes,
                      .row_bytes = p.cols / F::kWeights * F::kBytes,
                      .tokens = p.tokens,
                      .rows = p.rows,
                      .cols = p.cols,
                      .token_tiles = CeilDiv(p.tokens, Shape::kTokens),
                      .output_tiles = CeilDiv(p.rows, kTileOutputs),
                      .stages = stages};
  call.Launch(TokenTilesKernel<F, Shape>,
              static_cast<unsigned>(task.token_tiles * task.output_tiles), Shape::kThreads,
              static_cast<size_t>(TileSharedBytes<F, Shape>(stages)), task);
}

}  // namespace

void TokenTiles(const CudaCall& call, const Product& p) {
  DispatchFormat(p.format, [&]<typename F>() {
    if constexpr (kIsBlockFormat<F>) {
      if (TakesWideTiles<F>(p.tokens, p.rows, call.compute_capability(), call.multiprocessors())) {
        LaunchTiles<F, WideTiles>(call, p);
      } else {
        LaunchTiles<F, NarrowTiles>(call, p);
      }
    }
  });
}

}  // namespace mlf::cuda_linear
