// Rows of floats times a few tokens on CUDA, of any dtypes: time goes with the weight's bytes.
// Counterparts: linear.cu (chooses this), linear_cublas.cu (more tokens of one dtype),
// linear_launch.h (sizes).
//
// A warp takes two rows of the weight and up to eight tokens, whatever their number: values become
// float32 in registers, and each output is one sum over k in an order that depends on k alone (and
// on whether all rows are aligned to 16 bytes). More tokens read the weight again, from the
// second-level cache.
#include "kernels/linear_blocks.cuh"

namespace mlf::cuda_linear {
namespace {

constexpr int kFloatThreads = kFloatWarps * kWarp;

struct FloatTask {
  Floats out, x, weight, bias;
  int64_t tokens, rows, cols;
};

/// Sums over this lane's part of k: kN values at a time, kAhead of them under way.
template <typename W, int kN, int kTokens>
__device__ void AddRow(const FloatTask& task, int64_t row, int64_t first, int lane,
                       float (&sums)[kTokens][kFloatRows]) {
  constexpr int kAhead = kTokens == 1 ? 4 : kTokens == 4 ? 2 : 1;
  using Vector = CudaVector<W, kN>;
  const auto* weight = reinterpret_cast<const Vector*>(task.weight.data);
  const int64_t vectors = task.cols / kN;
#pragma unroll 1
  for (int64_t begin = lane; begin < vectors; begin += kAhead * kWarp) {
    Vector w[kAhead][kFloatRows];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
#pragma unroll
      for (int r = 0; r < kFloatRows; ++r) {
        const int64_t i = begin + u * kWarp;
        if (i < vectors && row + r < task.rows) {
          w[u][r] = LoadConstVector(weight + (row + r) * vectors + i);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int64_t i = begin + u * kWarp;
      if (i >= vectors) break;
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (first + t >= task.tokens) break;
        float x[kN];
        LoadVectors(task.x, (first + t) * task.cols + i * kN, x);
#pragma unroll
        for (int r = 0; r < kFloatRows; ++r) {
#pragma unroll
          for (int j = 0; j < kN; ++j) {
            sums[t][r] = fmaf(static_cast<float>(w[u][r].lane[j]), x[j], sums[t][r]);
          }
        }
      }
    }
  }
}

template <typename W, int kN, int kTokens>
__global__ void __launch_bounds__(kFloatThreads, 4) FloatRowsKernel(FloatTask task) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = (int64_t{blockIdx.x} * kFloatWarps + warp) * kFloatRows;
  if (row >= task.rows) return;
  for (int64_t first = int64_t{blockIdx.y} * kTokens; first < task.tokens;
       first += int64_t{gridDim.y} * kTokens) {
    float sums[kTokens][kFloatRows] = {};
    AddRow<W, kN, kTokens>(task, row, first, lane, sums);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
#pragma unroll
      for (int r = 0; r < kFloatRows; ++r) {
        float sum = WarpSum(sums[t][r]);
        if (lane != 0 || first + t >= task.tokens || row + r >= task.rows) continue;
        if (task.bias.data != nullptr) sum += LoadFloat(task.bias, row + r);
        StoreFloat(task.out, (first + t) * task.rows + row + r, sum);
      }
    }
  }
}

template <typename W, int kN>
void LaunchTokens(const CudaCall& call, const FloatTask& task) {
  const int at_once = FloatTokensAtOnce(task.tokens);
  const auto kernel = at_once == 1   ? FloatRowsKernel<W, kN, 1>
                      : at_once == 4 ? FloatRowsKernel<W, kN, 4>
                                     : FloatRowsKernel<W, kN, 8>;
  const dim3 grid(static_cast<unsigned>(FloatBlocks(task.rows)),
                  static_cast<unsigned>(FloatPasses(task.tokens, at_once)));
  call.Launch(kernel, grid, kFloatThreads, 0, task);
}

template <typename W>
void LaunchRows(const CudaCall& call, const FloatTask& task) {
  if (task.weight.aligned && task.x.aligned) {
    LaunchTokens<W, kVectorLanes<W>>(call, task);
  } else {
    LaunchTokens<W, 1>(call, task);
  }
}

}  // namespace

void FloatRows(const CudaCall& call, const Product& p) {
  const auto launch = [&]<typename W>(DLDataType dtype) {
    const FloatArray weight{const_cast<uint8_t*>(p.weight), dtype};
    LaunchRows<W>(call, {.out = FloatsOf(p.out, p.rows),
                         .x = FloatsOf(p.x, p.cols),
                         .weight = FloatsOf(weight, p.cols),
                         .bias = FloatsOf(p.bias, p.rows),
                         .tokens = p.tokens,
                         .rows = p.rows,
                         .cols = p.cols});
  };
  // A format of blocks comes here without any columns.
  if (p.format == Format::kF16) return launch.template operator()<F16>(kF16);
  if (p.format == Format::kBF16) return launch.template operator()<BF16>(kBF16);
  launch.template operator()<float>(kF32);
}

}  // namespace mlf::cuda_linear
