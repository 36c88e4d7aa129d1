// The largest of each row on CUDA. Counterparts: sampling.h, sampling.cc (the op, which finds this
// kernel by its registered name), sampling_launch.h.
#include <algorithm>

#include "base/dtype.h"
#include "kernels/cuda_rank.cuh"
#include "kernels/cuda_reduce.cuh"
#include "kernels/cuda_row.cuh"
#include "kernels/cuda_scratch.cuh"
#include "kernels/sampling_launch.h"

namespace mlf {
namespace {

constexpr int kInFlight = 4;  // vectors that a thread asks for at once

template <typename T>
using ArgmaxChunk = RowChunk<T, kArgmaxThreads, kInFlight>;

/// Rank of the best of x[n] that is above -inf; no rank is as large as that for none.
constexpr uint64_t kNone = UINT64_MAX;

/// Ranks of the elements of x from `begin` to `end`, for every thread.
template <typename T>
__device__ uint64_t BestRank(const T* x, int64_t begin, int64_t end) {
  float best = -INFINITY;
  int64_t id = -1;
#pragma unroll 1
  for (; begin < end; begin += ArgmaxChunk<T>::kElements) {
    ArgmaxChunk<T> chunk;
    chunk.Load(x + begin, end - begin, FromFloat<T>(-INFINITY));
#pragma unroll
    for (int v = 0; v < kInFlight; ++v) {
#pragma unroll
      for (int i = 0; i < ArgmaxChunk<T>::kLanes; ++i) {  // ids rise, so that the first one stays
        const auto value = static_cast<float>(chunk.vector[v].lane[i]);
        if (value > best) {
          best = value;
          id = begin + ArgmaxChunk<T>::Begin(v) + i;
        }
      }
    }
  }
  return BlockReduce<kArgmaxThreads>(id < 0 ? kNone : RankOf(best, id), MinOf());
}

/// The lowest id of a row without anything above -inf that is not NaN, or 0.
template <typename T>
__device__ int32_t FirstNumber(const T* x, int64_t n) {
  uint64_t first = kNone;
  for (int64_t i = threadIdx.x; i < n; i += kArgmaxThreads) {
    const auto value = static_cast<float>(x[i]);
    if (value == value && first == kNone) first = static_cast<uint64_t>(i);
  }
  first = BlockReduce<kArgmaxThreads>(first, MinOf());
  return first == kNone ? 0 : static_cast<int32_t>(first);
}

template <typename T>
__device__ void Answer(int32_t* id, const T* x, int64_t n, uint64_t best) {
  const int32_t answer = best == kNone ? FirstNumber(x, n) : IdOf(best);
  if (threadIdx.x == 0) *id = answer;
}

template <typename T>
__global__ void __launch_bounds__(kArgmaxThreads)
    ArgmaxKernel(int32_t* ids, const T* x, int64_t rows, int64_t n) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    Answer(ids + row, x + row * n, n, BestRank(x + row * n, 0, n));
  }
}

/// ranks [rows, splits] of pieces of `piece` elements.
template <typename T>
__global__ void __launch_bounds__(kArgmaxThreads)
    ArgmaxPiecesKernel(uint64_t* ranks, const T* x, int64_t n, int64_t splits, int64_t piece) {
  const int64_t row = blockIdx.x / splits, begin = blockIdx.x % splits * piece;
  const uint64_t best = BestRank(x + row * n, begin, min(n, begin + piece));
  if (threadIdx.x == 0) ranks[blockIdx.x] = best;
}

template <typename T>
__global__ void __launch_bounds__(kArgmaxThreads)
    ArgmaxOfPiecesKernel(int32_t* ids, const uint64_t* ranks, const T* x, int64_t n,
                         int64_t splits) {
  const int64_t row = blockIdx.x;
  uint64_t best = kNone;
  for (int64_t i = threadIdx.x; i < splits; i += kArgmaxThreads) {
    best = min(best, ranks[row * splits + i]);
  }
  Answer(ids + row, x + row * n, n, BlockReduce<kArgmaxThreads>(best, MinOf()));
}

template <typename T>
void Run(const CudaCall& call, int32_t* ids, const T* x, int64_t rows, int64_t n) {
  const int64_t splits =
      CudaScratch::IsOffered() ? ArgmaxSplits(rows, n, call.multiprocessors()) : 1;
  if (splits == 1) {  // the same answer
    call.Launch(ArgmaxKernel<T>, BlocksOf(rows), kArgmaxThreads, 0, ids, x, rows, n);
    return;
  }
  ScratchPlan plan;
  const int64_t at = plan.Add<uint64_t>(rows * splits);
  const CudaScratch scratch(call, plan);
  auto* ranks = scratch.At<uint64_t>(at);
  const int64_t piece = ArgmaxPiece(n, splits, ArgmaxChunk<T>::kElements);
  call.Launch(ArgmaxPiecesKernel<T>, static_cast<unsigned>(rows * splits), kArgmaxThreads, 0, ranks,
              x, n, splits, piece);
  call.Launch(ArgmaxOfPiecesKernel<T>, static_cast<unsigned>(rows), kArgmaxThreads, 0, ids, ranks,
              x, n, splits);
}

/// The slot `my_llm_ffi.argmax.cuda`.
void ArgmaxCuda(TensorView ids, TensorView logits) {
  const CudaCall call("argmax", {{"x", logits}, {"out", ids}});
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    Run<T>(call, Data<int32_t>(ids), Data<const T>(logits), ids.numel(),
           logits.size(logits.ndim() - 1));
  });
}

TVM_FFI_STATIC_INIT_BLOCK() { RegisterCudaKernel("my_llm_ffi.argmax.cuda", ArgmaxCuda); }

}  // namespace
}  // namespace mlf
