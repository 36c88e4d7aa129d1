// Draws from rows of logits on CUDA: a survey by all blocks, then one block a row, which reads what
// the survey points to. Counterparts: sampling.h, sampling.cc (the op, which finds this kernel by
// its registered name), sampling_draw.cuh, sampling_ranking.cuh.
#include <algorithm>

#include "base/dtype.h"
#include "kernels/cuda_scratch.cuh"
#include "kernels/sampling_draw.cuh"
#include "kernels/sampling_ranking.cuh"

namespace mlf {
namespace {

struct CudaSampleOptions {
  float uniform, temperature, top_p, min_p;
  int32_t top_k;

  /// The CPU's op refuses what is not.
  __device__ bool IsGood() const {
    return uniform >= 0 && uniform < 1 && temperature >= 0 && temperature <= 3.40282347e38f &&
           top_p > 0 && top_p <= 1 && min_p >= 0 && min_p <= 1;
  }

  /// The smallest float that is not below max + temperature * ln(min_p).
  __device__ float LeastOf(float max) const {
    if (!(min_p > 0)) return -INFINITY;
    const double least = max + double{temperature} * log(double{min_p});
    const auto rounded = static_cast<float>(least);
    return rounded < least ? ValueOf(KeyOf(rounded) - 1) : rounded;
  }
};

template <typename T>
struct SampleTask {
  int32_t* ids;     // [rows]
  float* logprobs;  // [rows]
  const T* logits;  // [rows, n]
  int64_t rows, n;
  const float* uniform;  // [rows]
  CudaRowParameter<float> temperature;
  CudaRowParameter<int32_t> top_k;
  CudaRowParameter<float> top_p, min_p;
  float* peaks;       // [rows, SurveyGroups(n)]
  ChunkMass* masses;  // [rows, SurveyChunks(n)]

  __device__ CudaSampleOptions Options(int64_t row) const {
    return {uniform[row], temperature[row], top_p[row], min_p[row], top_k[row]};
  }
};

/// The survey's masses of a row, put together.
struct RowMass {
  float max;
  double mass, scaled;  // at temperature 1, and at the row's
};

__device__ RowMass CombineMasses(const ChunkMass* masses, int64_t chunks, float scale) {
  float max = -INFINITY;
  for (int64_t c = threadIdx.x; c < chunks; c += kChoiceThreads) max = fmaxf(max, masses[c].max);
  RowMass row{BlockReduce<kChoiceThreads>(max, MaxOf()), 0, 0};
  for (int64_t c = threadIdx.x; c < chunks; c += kChoiceThreads) {
    const ChunkMass chunk = masses[c];
    if (!(chunk.max > -INFINITY)) continue;
    row.mass += static_cast<double>(SoftmaxWeight(chunk.max, row.max, kLog2E)) * chunk.mass;
    row.scaled += static_cast<double>(SoftmaxWeight(chunk.max, row.max, scale)) * chunk.scaled;
  }
  row.mass = BlockReduce<kChoiceThreads>(row.mass, SumOf());
  row.scaled = BlockReduce<kChoiceThreads>(row.scaled, SumOf());
  return row;
}

/// The lowest id of the maximum.
template <typename T>
__device__ int32_t FirstOf(const SurveyedRow<T>& row, float max) {
  long long first = INT64_MAX;
  for (int64_t g = threadIdx.x; g < row.groups(); g += kChoiceThreads) {
    if (row.peaks[g] != max) continue;
    row.ForGroup(g, [&](float value, int64_t id) {
      if (value == max && id < first) first = id;
    });
  }
  return static_cast<int32_t>(BlockReduce<kChoiceThreads>(first, MinOf()));
}

/// Every filter keeps the best tokens, so that what is left is a mass from the best one down.
template <typename T>
__device__ int32_t DrawRanked(CudaRanking<T, true>& ranking, const CudaDrawById<T>& above_least,
                              float least, bool cut, double all, const CudaSampleOptions& o) {
  CudaPlace end{all, UINT64_MAX};
  if (cut) end = ranking.Find(AtCount{o.top_k});
  if (o.top_p < 1) end = ranking.Find(ReachMass{o.top_p * end.mass});
  if (least > ValueOfRank(end.rank)) end.mass = above_least.Mass();
  return IdOf(ranking.Find(ExceedMass{o.uniform * end.mass}).rank);
}

template <typename T>
__device__ int32_t Draw(const SurveyedRow<T>& row, ChunkMass* masses, RankingMemory* memory,
                        const RowMass& sums, const CudaSampleOptions& o) {
  if (o.temperature == 0) return FirstOf(row, sums.max);
  const float scale = kLog2E / o.temperature, least = o.LeastOf(sums.max);
  const CudaDrawById<T> by_id(row, masses, sums.max, scale, least);
  const bool cut = o.top_k > 0 && o.top_k < row.n;
  if (!cut && o.top_p == 1) {
    if (o.min_p > 0) by_id.WeighAgain();
    return by_id(o.uniform);
  }
  CudaRanking<T, true> ranking(row, memory, sums.max, scale);
  const int64_t usual = min(int64_t{kUsualPlaces}, row.groups() / 2);
  ranking.BuildPrefix(cut ? min(int64_t{o.top_k}, kMaxPrefix) : usual);
  return DrawRanked(ranking, by_id, least, cut, sums.scaled, o);
}

template <typename T>
__global__ void __launch_bounds__(kChoiceThreads, 1) DrawKernel(SampleTask<T> task) {
  __shared__ RankingMemory memory;
  const int64_t chunks = SurveyChunks(task.n);
  for (int64_t r = blockIdx.x; r < task.rows; r += gridDim.x) {
    const SurveyedRow<T> row{task.logits + r * task.n, task.n,
                             task.peaks + r * SurveyGroups(task.n)};
    ChunkMass* masses = task.masses + r * chunks;
    const CudaSampleOptions o = task.Options(r);
    const RowMass sums = CombineMasses(masses, chunks, kLog2E / o.temperature);
    int32_t id = -1;
    float logprob = -INFINITY;
    if (!o.IsGood()) {
      logprob = NAN;
    } else if (sums.max > -INFINITY) {
      id = Draw(row, masses, &memory, sums, o);
      const auto logit = static_cast<float>(row.x[id]);
      const double below = logit == sums.max ? 0 : double{logit} - sums.max;
      logprob = static_cast<float>(below - log(sums.mass));
    }
    if (threadIdx.x == 0) {
      task.ids[r] = id;
      task.logprobs[r] = logprob;
    }
    __syncthreads();
  }
}

template <typename T>
void Run(const CudaCall& call, SampleTask<T> task) {
  const int64_t chunks = task.rows * SurveyChunks(task.n);
  ScratchPlan plan;
  const int64_t peaks = plan.Add<float>(task.rows * SurveyGroups(task.n)),
                masses = plan.Add<ChunkMass>(chunks);
  const CudaScratch scratch(call, plan);
  task.peaks = scratch.At<float>(peaks);
  task.masses = scratch.At<ChunkMass>(masses);
  call.Launch(SurveyKernel<T>, BlocksOf(chunks), kSurveyThreads, 0, task.logits, task.rows, task.n,
              task.temperature, task.peaks, task.masses);
  call.Launch(DrawKernel<T>, BlocksOf(task.rows), kChoiceThreads, 0, task);
}

/// The slot `my_llm_ffi.sample.cuda`.
void SampleCuda(TensorView ids, TensorView logprobs, TensorView logits, TensorView uniform,
                ffi::Optional<TensorView> temperature, ffi::Optional<TensorView> top_k,
                ffi::Optional<TensorView> top_p, ffi::Optional<TensorView> min_p) {
  const CudaCall call("sample", {{"logits", logits},
                                 {"uniform", uniform},
                                 {"temperature", GivenOr(temperature, uniform)},
                                 {"top_k", GivenOr(top_k, uniform)},
                                 {"top_p", GivenOr(top_p, uniform)},
                                 {"min_p", GivenOr(min_p, uniform)},
                                 {"ids", ids},
                                 {"logprobs", logprobs}});
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    Run<T>(call,
           {Data<int32_t>(ids), Data<float>(logprobs), Data<const T>(logits), logits.size(0),
            logits.size(1), Data<const float>(uniform), CudaRowParameter<float>(temperature, 1),
            CudaRowParameter<int32_t>(top_k, 0), CudaRowParameter<float>(top_p, 1),
            CudaRowParameter<float>(min_p, 0), nullptr, nullptr});
  });
}

TVM_FFI_STATIC_INIT_BLOCK() { RegisterCudaKernel("my_llm_ffi.sample.cuda", SampleCuda); }

}  // namespace
}  // namespace mlf
