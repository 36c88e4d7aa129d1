// A few tokens times a weight of blocks on CUDA: time goes with the weight's bytes. Counterparts:
// linear.cu (chooses this), linear_launch.h (sizes), linear_blocks.cuh (decoding).
//
// The integers of the blocks are exact in bfloat16, and so is an activation as the sum of an upper
// and a lower part (to 2^-18 of a float32; float16 and bfloat16 exactly). So a tensor core
// multiplies 16 rows of the weight by 8 columns, which are the two parts of 4 tokens, and the scale
// of each 32 (or 16) weights is applied to its float32 sum: a product costs about one instruction
// per weight whatever the number of tokens, and errs as a float32 one does.
//
// A block of threads takes 16 rows at a time; its warps share k in chunks of 256, of which each
// copies its own to shared memory ahead, in whole 16-byte words. Each output is one sum over k in
// an order that depends on k alone.
#include "kernels/linear_blocks.cuh"

namespace mlf::cuda_linear {
namespace {

constexpr int kFewThreads = kFewWarps * kWarp;
constexpr int kBlocksOfChunk = kFewChunk / static_cast<int>(kQuantBlock);

struct FewTask {
  Floats out, x, bias;
  const uint8_t* weight;
  int64_t weight_bytes, row_bytes, rows, cols;
  int64_t first;  // token of this launch
  int tokens;
  FewShared shared;
};

/// How blocks of a weight that is aligned likewise lie in memory.
template <typename F>
inline constexpr int kBlockAlign = F::kBytes % 4 == 0   ? 4
                                   : F::kBytes % 2 == 0 ? 2
                                                        : 1;

/// One warp's part of shared memory; rows of the weight begin at multiples of kAlign.
template <typename F, int kAlign>
struct FewWarp {
  static constexpr int kParts = kBlocksOfChunk * F::kSums;
  static constexpr int kBytes = ChunkBytes<F>(kFewChunk), kStride = RowStride(kBytes);

  const FewTask& task;
  uint8_t* memory;
  int lane, row, quarter;  // row and row + 8 of the weight's 16; lane = 4 * row + quarter

  __device__ uint8_t* Stage(int stage) const { return memory + stage * kFewRows * kStride; }
  __device__ uint8_t* X() const { return memory + task.shared.x; }
  __device__ float* Scales() const { return reinterpret_cast<float*>(memory + task.shared.scales); }
  __device__ float* Minima() const { return Scales() + kParts * kFewRows; }
  __device__ float* Sums() const { return reinterpret_cast<float*>(memory + task.shared.sums); }

  __device__ const uint8_t* Source(int64_t group, int64_t chunk, int r) const {
    return task.weight + (group * kFewRows + r) * task.row_bytes + chunk * kBytes;
  }
  __device__ int Blocks(int64_t chunk) const {
    const int64_t left = task.cols - chunk * kFewChunk;
    return static_cast<int>((left < kFewChunk ? left : kFewChunk) / kQuantBlock);
  }

  /// Begins to copy a chunk of 16 rows; rows beyond the last keep what was there.
  __device__ void Copy(int stage, int64_t group, int64_t chunk) const {
    const int bytes = Blocks(chunk) * static_cast<int>(F::kBytes) / kTileBlocks<F>;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + 8 * half;
      if (group * kFewRows + r >= task.rows) continue;
      CopyRow<kBytes, 4>(Stage(stage) + r * kStride, Source(group, chunk, r), bytes, quarter,
                         task.weight, task.weight + task.weight_bytes);
    }
  }

  /// A row of a chunk that was copied.
  __device__ AlignedBytes<kAlign> Row(int stage, int64_t group, int64_t chunk, int r) const {
    const uint8_t* row = Stage(stage) + r * kStride + PlaceInWord(Source(group, chunk, r));
    return {static_cast<const uint8_t*>(__builtin_assume_aligned(row, kAlign))};
  }

  /// The scales (and minima) of a chunk as floats: [part, row].
  __device__ void PrepareScales(int stage, int64_t group, int64_t chunk, int blocks) const {
    constexpr int kPartsOfBlock = kTileBlocks<F> * F::kSums;
    const int r = lane % kFewRows;
    const uint8_t* from = Row(stage, group, chunk, r);
#pragma unroll
    for (int i = 0; i < kParts / 2; ++i) {
      const int part = 2 * i + lane / kFewRows;
      if (part >= blocks * F::kSums) break;
      const quant::SubScale scale = F::SubScaleOf(
          from + part / kPartsOfBlock * static_cast<int>(F::kBytes), part % kPartsOfBlock);
      Scales()[part * kFewRows + r] = scale.d;
      if (F::kHasMin) Minima()[part * kFewRows + r] = scale.m;
    }
  }

  /// Activations of a chunk in the order that the products read: a lane's eight of 32 together,
  /// weights 4 * quarter … and those 16 behind them. Eight of one token for each lane.
  __device__ void PrepareX(int64_t chunk, int blocks) const {
    const int block = lane / 4, half = lane % 4 / 2, first = lane % 2 * 2;
    if (block >= blocks) return;
#pragma unroll 4
    for (int n = 0; n < task.tokens; ++n) {
      float v[8];
      LoadEight(task.x, (task.first + n) * task.cols + chunk * kFewChunk + lane * 8, v);
      uint32_t upper[4], lower[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        BF16 u[2], l[2];
        SplitFloat(v[2 * i], &u[0], &l[0]);
        SplitFloat(v[2 * i + 1], &u[1], &l[1]);
        upper[i] = PairOf(u[0], u[1]);
        lower[i] = PairOf(l[0], l[1]);
      }
      uint8_t* to = X() + ((block * 2 * task.tokens + 2 * n) * 4 + first) * kWord + half * 8;
      *reinterpret_cast<uint2*>(to) = make_uint2(upper[0], upper[1]);
      *reinterpret_cast<uint2*>(to + kWord) = make_uint2(upper[2], upper[3]);
      *reinterpret_cast<uint2*>(to + 4 * kWord) = make_uint2(lower[0], lower[1]);
      *reinterpret_cast<uint2*>(to + 5 * kWord) = make_uint2(lower[2], lower[3]);
      if constexpr (F::kHasMin) StoreSums(v, block * F::kSums + half * (F::kSums - 1), blocks, n);
    }
  }

  /// Sums of the activations under each minimum.
  __device__ void StoreSums(const float (&v)[8], int part, int blocks, int token) const {
    constexpr int kLanes = 4 / F::kSums;
    const unsigned there = kFullWarp >> (kWarp - 4 * blocks);
    float sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
#pragma unroll
    for (int offset = 1; offset < kLanes; offset *= 2) {
      sum += __shfl_xor_sync(there, sum, offset);
    }
    if (lane % kLanes == 0) Sums()[part * task.tokens + token] = sum;
  }
};

/// Adds 32 of k to the sums of rows row and row + 8 for tokens quarter, quarter + 4 (of kTiles).
template <typename F, int kAlign, int kTiles>
__device__ __forceinline__ void AddBlock(const FewWarp<F, kAlign>& warp,
                                         const AlignedBytes<kAlign> (&rows)[2], int b,
                                         float (&sums)[kTiles][2]) {
  const int tokens = warp.task.tokens;
  uint32_t a[2][4];  // of weights 0 … 15 and 16 … 31
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t four = F::Four(rows[r] + b / kTileBlocks<F> * static_cast<int>(F::kBytes),
                                    PartOf<F>(b), 4 * half + warp.quarter);
      a[half][r] = IntegersAsPair<F::kOffset>(four, false);
      a[half][r + 2] = IntegersAsPair<F::kOffset>(four, true);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int column = warp.row + 8 * tile, token = warp.quarter + kTokensOfMma * tile;
    uint4 x = make_uint4(0, 0, 0, 0);
    if (column < 2 * tokens) {
      x = reinterpret_cast<const uint4*>(warp.X())[(b * 2 * tokens + column) * 4 + warp.quarter];
    }
    const uint32_t columns[2][2] = {{x.x, x.y}, {x.z, x.w}};
    float c[4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      MmaBf16(c, a[half], columns[half]);
      if (F::kSums == 1 && half == 0) continue;
      const int part = b * F::kSums + half * (F::kSums - 1);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = part * kFewRows + warp.row + 8 * r;
        float sum = fmaf(warp.Scales()[at], c[2 * r] + c[2 * r + 1], sums[tile][r]);
        if constexpr (F::kHasMin) {
          const float x_sum = token < tokens ? warp.Sums()[part * tokens + token] : 0.f;
          sum = fmaf(-warp.Minima()[at], x_sum, sum);
        }
        sums[tile][r] = sum;
        c[2 * r] = c[2 * r + 1] = 0.f;
      }
    }
  }
}

/// Adds a chunk; whole ones of aligned weights unrolled as far as registers allow, so that places
/// in blocks are constants.
template <typename F, int kAlign, int kTiles>
__device__ __forceinline__ void AddChunk(const FewWarp<F, kAlign>& warp,
                                         const AlignedBytes<kAlign> (&rows)[2], int blocks,
                                         float (&sums)[kTiles][2]) {
  if (kAlign == kBlockAlign<F> && blocks == kBlocksOfChunk) {
    constexpr int kAtOnce = kTiles == 1 ? kBlocksOfChunk : kBlocksOfChunk / 2;
#pragma unroll 1
    for (int b = 0; b < kBlocksOfChunk; b += kAtOnce) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) AddBlock(warp, rows, b + i, sums);
    }
  } else {
#pragma unroll 1
    for (int b = 0; b < blocks; ++b) AddBlock(warp, rows, b, sums);
  }
}

/// Outputs of a group of rows from the sums of its warps, [warp, token, row].
__device__ void StoreGroup(const FewTask& task, const float* sums, int64_t group) {
  for (int i = static_cast<int>(threadIdx.x); i < task.tokens * kFewRows; i += kFewThreads) {
    const int64_t row = group * kFewRows + i % kFewRows;
    if (row >= task.rows) continue;
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w) sum += sums[w * task.tokens * kFewRows + i];
    if (task.bias.data != nullptr) sum += LoadFloat(task.bias, row);
    StoreFloat(task.out, (task.first + i / kFewRows) * task.rows + row, sum);
  }
}

template <typename F, int kTiles, int kAlign>
__global__ void __launch_bounds__(kFewThreads, kFewBlocksAtOnce) FewTokensKernel(FewTask task) {
  auto* shared = DynamicShared<uint8_t>();
  const int warp_number = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const FewWarp<F, kAlign> warp{task, shared + warp_number * task.shared.warp, lane, lane / 4,
                                lane % 4};
  auto* all_sums = reinterpret_cast<float*>(shared + kFewWarps * task.shared.warp);
  const int64_t groups = (task.rows + kFewRows - 1) / kFewRows,
                chunks = (task.cols + kFewChunk - 1) / kFewChunk;

  // What is copied next: the warp's chunks of a group, then those of the block's next group.
  int64_t next_group = blockIdx.x, next_chunk = warp_number;
  int next_stage = 0;
  const auto copy_next = [&] {
    if (next_chunk < chunks && next_group < groups) warp.Copy(next_stage, next_group, next_chunk);
    CopyAsyncCommit();
    next_stage = (next_stage + 1) % kFewStages;
    next_chunk += kFewWarps;
    if (next_chunk >= chunks) {
      next_chunk = warp_number;
      next_group += gridDim.x;
    }
  };
#pragma unroll
  for (int i = 0; i < kFewStages - 1; ++i) copy_next();

  int stage = 0, turn = 0;
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    float sums[kTiles][2] = {};
    for (int64_t chunk = warp_number; chunk < chunks; chunk += kFewWarps) {
      CopyAsyncWait<kFewStages - 2>();
      __syncwarp();  // the chunk is there, and what the last one left in shared memory is read
      copy_next();
      const int blocks = warp.Blocks(chunk);
      warp.PrepareScales(stage, group, chunk, blocks);
      warp.PrepareX(chunk, blocks);
      __syncwarp();
      const AlignedBytes<kAlign> rows[2] = {warp.Row(stage, group, chunk, warp.row),
                                            warp.Row(stage, group, chunk, warp.row + 8)};
      AddChunk(warp, rows, blocks, sums);
      stage = (stage + 1) % kFewStages;
    }
    float* of_warps = all_sums + turn * kFewWarps * task.tokens * kFewRows;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int token = warp.quarter + kTokensOfMma * tile;
      if (token >= task.tokens) continue;
      float* to = of_warps + (warp_number * task.tokens + token) * kFewRows;
      to[warp.row] = sums[tile][0];
      to[warp.row + 8] = sums[tile][1];
    }
    __syncthreads();  // the sums of the next group go elsewhere, so one barrier will do
    StoreGroup(task, of_warps, group);
    turn ^= 1;
  }
}

}  // namespace

void FewTokens(const CudaCall& call, const Product& p) {
  DispatchFormat(p.format, [&]<typename F>() {
    if constexpr (kIsBlockFormat<F>) {
      FewTask task{.out = FloatsOf(p.out, p.rows),
                   .x = FloatsOf(p.x, p.cols),
                   .bias = FloatsOf(p.bias, p.rows),
                   .weight = p.weight,
                   .weight_bytes = p.weight_bytes,
                   .row_bytes = p.cols / F::kWeights * F::kBytes,
                   .rows = p.rows,
                   .cols = p.cols,
                   .first = 0,
                   .tokens = 0,
                   .shared = {}};
      constexpr int kAlign = kBlockAlign<F>;
      const bool aligned = reinterpret_cast<uintptr_t>(p.weight) % kAlign == 0;
      const int capability = call.compute_capability(),
                at_once = FewTokensAtOnce<F>(p.tokens, capability);
      for (; task.first < p.tokens; task.first += task.tokens) {
        task.tokens = static_cast<int>(std::min<int64_t>(at_once, p.tokens - task.first));
        task.shared = FewSharedOf<F>(task.tokens);
        const auto kernel = !aligned                      ? FewTokensKernel<F, 2, 1>
                            : task.tokens <= kTokensOfMma ? FewTokensKernel<F, 1, kAlign>
                                                          : FewTokensKernel<F, 2, kAlign>;
        const int64_t blocks =
            FewBlocks(p.rows, task.shared.all, capability, call.multiprocessors());
        call.Launch(kernel, static_cast<unsigned>(blocks), kFewThreads,
                    static_cast<size_t>(task.shared.all), task);
      }
    }
  });
}

}  // namespace mlf::cuda_linear
