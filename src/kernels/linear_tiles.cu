// Many tokens times a weight of blocks on CUDA: tiles on tensor cores. Counterparts: linear.cu
// (chooses this), linear_launch.h (sizes), linear_blocks.cuh (decoding).
//
// A block of threads makes 128 tokens by 128 outputs. Rows of the weight come as they are into
// shared memory, a chunk of k ahead; at each step of 32 k they are decoded to a tile of bfloat16,
// beside one of the activations, while tensor cores multiply the tiles of the step before:
//
//   chunk c + 1: global -> shared (asynchronous)       x of step s + 2: global -> registers
//   step s + 1:  shared -> registers -> tile           step s: tiles -> tensor cores
//
// Activations and weights are rounded to bfloat16, to nearest even, so an output is off by at most
// (2^-8 + 2^-18) of its sum of magnitudes, sum_k |x_k w_k|, typically by a few times
// 2^-9 / sqrt(cols) of it; sums are float32. Each output is one sum over k in one order.
#include "kernels/linear_blocks.cuh"

namespace mlf::cuda_linear {
namespace {

constexpr int kMmaM = 16, kMmaN = 8, kMmaK = 16;
constexpr int kWarpTokens = 64, kWarpOutputs = 32;  // of one warp's part of the block's tile
constexpr int kWarpsOver = kTileTokens / kWarpTokens;
constexpr int kTilesM = kWarpTokens / kMmaM, kTilesN = kWarpOutputs / kMmaN;
static_assert(kTileThreads == kWarp * kWarpsOver * kTileOutputs / kWarpOutputs);
static_assert(kTileThreads == 2 * kTileTokens && kTileTokens == kTileOutputs && kTileK == 32);

struct TileTask {
  Floats out, x, bias;
  const uint8_t* weight;
  int64_t weight_bytes, row_bytes, tokens, rows, cols;
  int64_t token_tiles, output_tiles;
};

/// A tile of [128, 32] bfloat16. The four 16-byte words of a row stand in another order in every
/// second row, so that matrix loads, of eight rows each, meet every bank once.
__device__ inline uint8_t* TileWord(uint8_t* tile, int row, int word) {
  return tile + (row * 4 + (word ^ (row / 2 % 4))) * kWord;
}

/// Sixteen activations of the token and half of a step that a thread brings.
struct HeldX {
  uint32_t pairs[8];
};

__device__ inline HeldX LoadX(const TileTask& task, int64_t token, int64_t k) {
  HeldX held{};
  if (token >= task.tokens || k >= task.cols) return held;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t at = token * task.cols + k + 8 * i;
    if (task.x.aligned && task.x.type == FloatType::kBF16) {
      const auto v =
          LoadConstVector(reinterpret_cast<const CudaVector<uint32_t, 4>*>(task.x.data) + at / 8);
#pragma unroll
      for (int j = 0; j < 4; ++j) held.pairs[4 * i + j] = v.lane[j];
      continue;
    }
    float v[8];
    LoadEight(task.x, at, v);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      held.pairs[4 * i + j] = PairOf(BF16::From(v[2 * j]), BF16::From(v[2 * j + 1]));
    }
  }
  return held;
}

__device__ inline void StoreHalfRow(uint8_t* tile, int row, int half, const uint32_t (&pairs)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    *reinterpret_cast<uint4*>(TileWord(tile, row, 2 * half + i)) =
        make_uint4(pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]);
  }
}

/// Half of 32 weights as bfloat16.
template <typename F>
__device__ inline void DecodeHalf(const uint8_t* row, int b, int half, uint32_t (&pairs)[8]) {
  const uint8_t* block = BlockOf<F>(row, b);
  float w[16];
  DecodeBlock<F>(block, PartOf<F>(b) * static_cast<int>(kQuantBlock) + 16 * half, w);
#pragma unroll
  for (int i = 0; i < 8; ++i) pairs[i] = PairOf(BF16::From(w[2 * i]), BF16::From(w[2 * i + 1]));
}

/// The products of one step: this warp's 64 by 32 part.
__device__ inline void MultiplyTiles(uint8_t* x, uint8_t* w, int first_token, int first_output,
                                     int lane, float (&sums)[kTilesM][kTilesN][4]) {
#pragma unroll
  for (int step = 0; step < kTileK / kMmaK; ++step) {
    uint32_t a[kTilesM][4], b[kTilesN][2];
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {  // matrices: rows 0 … 7, 8 … 15, then the next columns
      LoadMatrix4(a[m], TileWord(x, first_token + m * kMmaM + lane % 16, 2 * step + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < kTilesN; n += 2) {  // outputs 0 … 7 in both halves of k, then 8 … 15
      uint32_t r[4];
      LoadMatrix4(r, TileWord(w, first_output + n * kMmaN + lane % 8 + lane / 16 * 8,
                              2 * step + lane / 8 % 2));
      b[n][0] = r[0];
      b[n][1] = r[1];
      b[n + 1][0] = r[2];
      b[n + 1][1] = r[3];
    }
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
      for (int n = 0; n < kTilesN; ++n) MmaBf16(sums[m][n], a[m], b[n]);
    }
  }
}

__device__ inline void AddBias(const TileTask& task, int64_t output,
                               float (&sums)[kTilesM][kTilesN][4]) {
#pragma unroll
  for (int i = 0; i < 2 * kTilesN; ++i) {
    const int64_t at = output + i / 2 * kMmaN + i % 2;
    const float bias = at < task.rows ? LoadFloat(task.bias, at) : 0.f;
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
      sums[m][i / 2][i % 2] += bias;
      sums[m][i / 2][2 + i % 2] += bias;
    }
  }
}

/// Two outputs side by side at a time, in one access where rows are aligned; their number is then
/// even, too.
template <typename T>
__device__ inline void StoreTile(const TileTask& task, int64_t token, int64_t output,
                                 const float (&sums)[kTilesM][kTilesN][4]) {
#pragma unroll
  for (int i = 0; i < 2 * kTilesM; ++i) {
    const int64_t row = token + i * (kMmaM / 2);
    if (row >= task.tokens) return;
    T* to = reinterpret_cast<T*>(task.out.data) + row * task.rows + output;
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
      const float* c = sums[i / 2][n] + i % 2 * 2;
      const CudaVector<T, 2> two{{FromFloat<T>(c[0]), FromFloat<T>(c[1])}};
      const int64_t left = task.rows - output - n * kMmaN;
      if (task.out.aligned) {
        if (left > 0) *reinterpret_cast<CudaVector<T, 2>*>(to + n * kMmaN) = two;
      } else {
        if (left > 0) to[n * kMmaN] = two.lane[0];
        if (left > 1) to[n * kMmaN + 1] = two.lane[1];
      }
    }
  }
}

/// What a thread does for the tiles of its block: it brings half a step of one token and of one
/// row of the weight.
template <typename F>
struct TileLoader {
  static constexpr int kChunk = TileChunk<F>(), kBytes = ChunkBytes<F>(kChunk);
  static constexpr int kStride = RowStride(kBytes), kSteps = kChunk / kTileK;

  const TileTask& task;
  uint8_t* raw;  // [kTileStages, kTileOutputs, kStride]
  int64_t first_token, first_output;
  int row, half;  // row of both tiles

  __device__ const uint8_t* Source(int r, int64_t chunk) const {
    return task.weight + (first_output + r) * task.row_bytes + chunk * kBytes;
  }
  __device__ uint8_t* Raw(int64_t chunk, int r) const {
    return raw + (static_cast<int>(chunk % kTileStages) * kTileOutputs + r) * kStride;
  }

  /// Begins to copy a chunk of all rows: four threads a row, so that a warp reads whole sectors.
  __device__ void CopyChunk(int64_t chunk) const {
    const int64_t left = task.cols - chunk * kChunk;
    if (left > 0) {
      const int blocks = static_cast<int>((left < kChunk ? left : kChunk) / F::kWeights);
      const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
      for (int r = thread / 4; r < kTileOutputs; r += kTileThreads / 4) {
        if (first_output + r >= task.rows) break;
        CopyRow<kBytes, 4>(Raw(chunk, r), Source(r, chunk), blocks * static_cast<int>(F::kBytes),
                           thread % 4, task.weight, task.weight + task.weight_bytes);
      }
    }
    CopyAsyncCommit();
  }

  __device__ HeldX Load(int64_t step) const {
    return LoadX(task, first_token + row, step * kTileK + 16 * half);
  }

  /// Tiles of a step from what was copied and held.
  __device__ void Make(int64_t step, const HeldX& held, uint8_t* x, uint8_t* w) const {
    StoreHalfRow(x, row, half, held.pairs);
    uint32_t pairs[8] = {};
    if (first_output + row < task.rows) {
      const int64_t chunk = step / kSteps;
      DecodeHalf<F>(Raw(chunk, row) + PlaceInWord(Source(row, chunk)),
                    static_cast<int>(step % kSteps), half, pairs);
    }
    StoreHalfRow(w, row, half, pairs);
  }
};

template <typename F>
__global__ void __launch_bounds__(kTileThreads, 1) TokenTilesKernel(TileTask task) {
  constexpr int kTileBytes = kTileTokens * kTileK * 2;
  constexpr int kRaw = static_cast<int>(kTileStages * TileLoader<F>::kStride * kTileOutputs);
  auto* shared = DynamicShared<uint8_t>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  // As TileOfBlock of linear_launch.h has it.
  const TileAt at = TileOfBlock(blockIdx.x, task.token_tiles, task.output_tiles);
  const TileLoader<F> loader{
      task, shared, at.tokens * kTileTokens, at.outputs * kTileOutputs, thread / 2, thread % 2};
  const auto tile_x = [&](int64_t step) { return shared + kRaw + step % 2 * 2 * kTileBytes; };
  const auto tile_w = [&](int64_t step) { return tile_x(step) + kTileBytes; };
  const int first_token = warp % kWarpsOver * kWarpTokens,
            first_output = warp / kWarpsOver * kWarpOutputs;

  const int64_t steps = task.cols / kTileK;
  float sums[kTilesM][kTilesN][4] = {};
  loader.CopyChunk(0);
  HeldX held = loader.Load(0);
  CopyAsyncWait<0>();
  __syncthreads();
  loader.CopyChunk(1);
  loader.Make(0, held, tile_x(0), tile_w(0));
  held = loader.Load(1);
  __syncthreads();
#pragma unroll 1
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t next = step + 1;
    if (next < steps && next % TileLoader<F>::kSteps == 0) {
      CopyAsyncWait<0>();
      __syncthreads();  // the chunk is there, and the one before is read
      loader.CopyChunk(next / TileLoader<F>::kSteps + 1);
    }
    if (next < steps) {
      loader.Make(next, held, tile_x(next), tile_w(next));
      held = loader.Load(next + 1);
    }
    MultiplyTiles(tile_x(step), tile_w(step), first_token, first_output, lane, sums);
    __syncthreads();
  }
  const int64_t token = loader.first_token + first_token + lane / 4,
                output = loader.first_output + first_output + lane % 4 * 2;
  if (task.bias.data != nullptr) AddBias(task, output, sums);
  if (task.out.type == FloatType::kF32) {
    StoreTile<float>(task, token, output, sums);
  } else if (task.out.type == FloatType::kF16) {
    StoreTile<F16>(task, token, output, sums);
  } else {
    StoreTile<BF16>(task, token, output, sums);
  }
}

}  // namespace

void TokenTiles(const CudaCall& call, const Product& p) {
  DispatchFormat(p.format, [&]<typename F>() {
    if constexpr (kIsBlockFormat<F>) {
      const TileTask task{.out = FloatsOf(p.out, p.rows),
                          .x = FloatsOf(p.x, p.cols),
                          .bias = FloatsOf(p.bias, p.rows),
                          .weight = p.weight,
                          .weight_bytes = p.weight_bytes,
                          .row_bytes = p.cols / F::kWeights * F::kBytes,
                          .tokens = p.tokens,
                          .rows = p.rows,
                          .cols = p.cols,
                          .token_tiles = CeilDiv(p.tokens, kTileTokens),
                          .output_tiles = CeilDiv(p.rows, kTileOutputs)};
      call.Launch(TokenTilesKernel<F>, static_cast<unsigned>(task.token_tiles * task.output_tiles),
                  kTileThreads, static_cast<size_t>(TileSharedBytes<F>()), task);
    }
  });
}

}  // namespace mlf::cuda_linear
