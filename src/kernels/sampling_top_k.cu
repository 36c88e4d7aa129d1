// The k largest of each row on CUDA: small rows are sorted; of others a survey tells the best, and
// many of them are sorted by all blocks. Counterparts: sampling.h, sampling.cc (the op, which finds
// this kernel by its registered name), sampling_ranking.cuh.
#include <algorithm>

#include "base/dtype.h"
#include "kernels/cuda_scratch.cuh"
#include "kernels/sampling_ranking.cuh"

namespace mlf {
namespace {

constexpr int kSmallThreads = 128;

template <typename T>
struct TopKTask {
  T* values;     // [rows, k]
  int32_t* ids;  // [rows, k]
  const T* x;    // [rows, n]
  int64_t rows, n, k;
  const float* peaks;  // [rows, SurveyGroups(n)]

  __device__ SurveyedRow<T> Row(int64_t row) const {
    return {x + row * n, n, peaks + row * SurveyGroups(n)};
  }
  __device__ void Put(int64_t row, int64_t place, uint64_t rank) const {
    const int32_t id = IdOf(rank);
    ids[row * k + place] = id;
    values[row * k + place] = x[row * n + id];
  }
};

/// A block sorts a whole row of at most kSortedRow.
template <typename T>
__global__ void __launch_bounds__(kSmallThreads) TopKOfSmallKernel(TopKTask<T> task) {
  __shared__ uint64_t ranks[kSortedRow];
  const auto n = static_cast<int>(task.n);
  for (int64_t row = blockIdx.x; row < task.rows; row += gridDim.x) {
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kSmallThreads) {
      ranks[i] = RankOf(static_cast<float>(task.x[row * n + i]), i);
    }
    BlockSort<kSmallThreads>(ranks, n);
    for (int64_t i = threadIdx.x; i < task.k; i += kSmallThreads) task.Put(row, i, ranks[i]);
    __syncthreads();
  }
}

template <typename T>
__device__ float MaxOfPeaks(const SurveyedRow<T>& row) {
  float max = -INFINITY;
  for (int64_t g = threadIdx.x; g < row.groups(); g += kChoiceThreads) {
    max = fmaxf(max, row.peaks[g]);
  }
  return BlockReduce<kChoiceThreads>(max, MaxOf());
}

/// A block sorts the best of a row, at most kMaxPrefix.
template <typename T>
__global__ void __launch_bounds__(kChoiceThreads, 1) TopKKernel(TopKTask<T> task) {
  __shared__ RankingMemory memory;
  for (int64_t r = blockIdx.x; r < task.rows; r += gridDim.x) {
    const SurveyedRow<T> row = task.Row(r);
    CudaRanking<T, false> ranking(row, &memory, MaxOfPeaks(row), 0);
    if (ranking.BuildPrefix(task.k) < task.k) {
      ranking.Gather(ranking.Find(AtCount{task.k}).rank);
    }
    for (int64_t i = threadIdx.x; i < task.k; i += kChoiceThreads) {
      task.Put(r, i, ranking.Rank(static_cast<int>(i)));
    }
    __syncthreads();
  }
}

// ---- many of the best ---------------------------------------------------------------------------

// The rank of the k-th, all up to it in any order, tiles of them sorted, then merged.

/// last [rows]: the k-th rank. found [rows] begins at 0.
template <typename T>
__global__ void __launch_bounds__(kChoiceThreads, 1)
    LastRankKernel(TopKTask<T> task, uint64_t* last, unsigned* found) {
  __shared__ RankingMemory memory;
  for (int64_t r = blockIdx.x; r < task.rows; r += gridDim.x) {
    const SurveyedRow<T> row = task.Row(r);
    uint64_t rank = UINT64_MAX;
    if (task.k < task.n) {
      CudaRanking<T, false> ranking(row, &memory, MaxOfPeaks(row), 0);
      rank = ranking.Find(AtCount{task.k}).rank;
    }
    if (threadIdx.x != 0) continue;
    last[r] = rank;
    found[r] = 0;
  }
}

/// ranks [rows, k]: those up to the last one. A block takes room for its chunk at once.
template <typename T>
__global__ void __launch_bounds__(kSurveyThreads)
    GatherKernel(TopKTask<T> task, const uint64_t* last, unsigned* found, uint64_t* ranks) {
  __shared__ unsigned room;
  const int64_t chunks = SurveyChunks(task.n), items = task.rows * chunks;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t row = item / chunks, group = item % chunks * kSurveyThreads + threadIdx.x;
    const uint64_t end = last[row];
    unsigned own = 0, all;
    task.Row(row).ForGroup(
        group, [&](float value, int64_t id) { own += RankOf(value, id) <= end ? 1 : 0; });
    const unsigned before = BlockScan<kSurveyThreads>(own, &all) - own;
    if (threadIdx.x == 0) room = atomicAdd(found + row, all);
    __syncthreads();
    uint64_t* out = ranks + row * task.k + room + before;
    __syncthreads();  // before the next room
    task.Row(row).ForGroup(group, [&](float value, int64_t id) {
      const uint64_t rank = RankOf(value, id);
      if (rank <= end) *out++ = rank;
    });
  }
}

/// Sorts every tile of kSortedPlaces of a row's k ranks.
__global__ void __launch_bounds__(kChoiceThreads)
    SortTilesKernel(uint64_t* ranks, int64_t rows, int64_t k) {
  __shared__ uint64_t tile[kSortedPlaces];
  const int64_t tiles = (k + kSortedPlaces - 1) / kSortedPlaces, items = rows * tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t begin = item % tiles * kSortedPlaces;
    uint64_t* from = ranks + item / tiles * k + begin;
    const auto count = static_cast<int>(min(k - begin, int64_t{kSortedPlaces}));
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kChoiceThreads) tile[i] = from[i];
    BlockSort<kChoiceThreads>(tile, count);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kChoiceThreads) from[i] = tile[i];
    __syncthreads();
  }
}

/// Merges pairs of sorted runs of `run` ranks: each goes where it stands in its own run plus how
/// many of the other run are before it. All ranks differ.
__global__ void __launch_bounds__(kChoiceThreads)
    MergeKernel(uint64_t* merged, const uint64_t* ranks, int64_t rows, int64_t k, int64_t run) {
  for (int64_t i = int64_t{blockIdx.x} * kChoiceThreads + threadIdx.x; i < rows * k;
       i += int64_t{gridDim.x} * kChoiceThreads) {
    const int64_t first = i / k * k, at = i % k, own = at / run * run,
                  pair = at / (2 * run) * 2 * run, other = own == pair ? own + run : pair;
    const uint64_t rank = ranks[i];
    int64_t low = min(other, k), high = min(other + run, k);
    const int64_t begin = low;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (ranks[first + middle] < rank) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    merged[first + pair + (at - own) + (low - begin)] = rank;
  }
}

template <typename T>
__global__ void __launch_bounds__(kChoiceThreads)
    PutKernel(TopKTask<T> task, const uint64_t* ranks) {
  for (int64_t i = int64_t{blockIdx.x} * kChoiceThreads + threadIdx.x; i < task.rows * task.k;
       i += int64_t{gridDim.x} * kChoiceThreads) {
    task.Put(i / task.k, i % task.k, ranks[i]);
  }
}

template <typename T>
void Survey(const CudaCall& call, const TopKTask<T>& task, float* peaks) {
  call.Launch(SurveyKernel<T>, BlocksOf(task.rows * SurveyChunks(task.n)), kSurveyThreads, 0,
              task.x, task.rows, task.n, CudaRowParameter<float>(ffi::Optional<TensorView>(), 1),
              peaks, static_cast<ChunkMass*>(nullptr));
}

template <typename T>
void RunMany(const CudaCall& call, TopKTask<T> task) {
  ScratchPlan plan;
  const int64_t total = task.rows * task.k,
                peaks = plan.Add<float>(task.rows * SurveyGroups(task.n)),
                last = plan.Add<uint64_t>(task.rows), found = plan.Add<unsigned>(task.rows),
                ranks = plan.Add<uint64_t>(total), merged = plan.Add<uint64_t>(total);
  const CudaScratch scratch(call, plan);
  task.peaks = scratch.At<float>(peaks);
  const unsigned blocks = PlaceBlocks(total);
  auto *from = scratch.At<uint64_t>(ranks), *to = scratch.At<uint64_t>(merged);
  Survey(call, task, scratch.At<float>(peaks));
  call.Launch(LastRankKernel<T>, BlocksOf(task.rows), kChoiceThreads, 0, task,
              scratch.At<uint64_t>(last), scratch.At<unsigned>(found));
  call.Launch(GatherKernel<T>, BlocksOf(task.rows * SurveyChunks(task.n)), kSurveyThreads, 0, task,
              scratch.At<uint64_t>(last), scratch.At<unsigned>(found), from);
  call.Launch(SortTilesKernel, SortedTileBlocks(task.rows, task.k), kChoiceThreads, 0, from,
              task.rows, task.k);
  for (int pass = 0; pass < MergePasses(task.k); ++pass) {
    call.Launch(MergeKernel, blocks, kChoiceThreads, 0, to, from, task.rows, task.k,
                int64_t{kSortedPlaces} << pass);
    std::swap(from, to);
  }
  call.Launch(PutKernel<T>, blocks, kChoiceThreads, 0, task, from);
}

template <typename T>
void Run(const CudaCall& call, TopKTask<T> task) {
  if (task.n <= kSortedRow) {
    call.Launch(TopKOfSmallKernel<T>, BlocksOf(task.rows), kSmallThreads, 0, task);
    return;
  }
  if (task.k > kMaxPrefix) return RunMany(call, task);
  ScratchPlan plan;
  const int64_t peaks = plan.Add<float>(task.rows * SurveyGroups(task.n));
  const CudaScratch scratch(call, plan);
  task.peaks = scratch.At<float>(peaks);
  Survey(call, task, scratch.At<float>(peaks));
  call.Launch(TopKKernel<T>, BlocksOf(task.rows), kChoiceThreads, 0, task);
}

/// The slot `my_llm_ffi.top_k.cuda`.
void TopKCuda(TensorView values, TensorView ids, TensorView x, int64_t k) {
  const CudaCall call("top_k", {{"x", x}, {"values", values}, {"ids", ids}});
  const int64_t n = x.size(x.ndim() - 1);
  DispatchFloat(x.dtype(), [&]<typename T>() {
    Run<T>(call,
           {Data<T>(values), Data<int32_t>(ids), Data<const T>(x), x.numel() / n, n, k, nullptr});
  });
}

TVM_FFI_STATIC_INIT_BLOCK() { RegisterCudaKernel("my_llm_ffi.top_k.cuda", TopKCuda); }

}  // namespace
}  // namespace mlf
