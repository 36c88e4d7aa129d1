// A draw from one row of logits whose tokens stay in the order of their ids, by one block on CUDA.
// Counterparts: sampling.cu, sampling.cc (DrawById).
#pragma once
#include "kernels/sampling_survey.cuh"

namespace mlf {

/// Where a sum passes a number: the first thread at which it does; else the last one with a mass.
struct BlockStep {
  int thread;     // -1: no thread has a mass
  double before;  // the sum up to it
  bool passed;
  double all;
};

__device__ inline BlockStep StepOver(double mass, double left) {
  __shared__ double before_thread[kChoiceThreads];
  double all;
  const double sum = BlockScan<kChoiceThreads>(mass, &all);
  before_thread[threadIdx.x] = sum - mass;
  const int own = static_cast<int>(threadIdx.x);
  const int first =
      BlockReduce<kChoiceThreads>(mass > 0 && sum > left ? own : kChoiceThreads, MinOf());
  const int last = BlockReduce<kChoiceThreads>(mass > 0 ? own : -1, MaxOf());
  const bool passed = first < kChoiceThreads;
  const int thread = passed ? first : last;
  const BlockStep step{thread, thread < 0 ? 0 : before_thread[thread], passed, all};
  __syncthreads();  // before the next step writes
  return step;
}

/// Made and used by all threads of a block of kChoiceThreads.
template <typename T>
class CudaDrawById {
 public:
  /// masses: of the row's chunks. Tokens below `least` are left out.
  __device__ CudaDrawById(const SurveyedRow<T>& row, ChunkMass* masses, float max, float scale,
                          float least)
      : row_(row), masses_(masses), max_(max), scale_(scale), least_(least) {}

  /// Masses of chunks at a `least` above -inf, of the groups alone that hold one.
  __device__ void WeighAgain() const {
    constexpr int kWarps = kChoiceThreads / kWarp;
    const int warp = static_cast<int>(threadIdx.x) / kWarp,
              lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int64_t c = warp; c < SurveyChunks(row_.n); c += kWarps) {
      float mass = 0;
      for (int g = lane; g < kSurveyThreads; g += kWarp) mass += MassOfGroup(c, g);
      mass = WarpReduce(mass, SumOf());
      if (lane == 0) masses_[c] = {max_, 0, mass};
    }
    __syncthreads();
  }

  /// Of the tokens of `least` or more, for every thread.
  __device__ double Mass() const {
    double mass = 0;
    for (int64_t g = threadIdx.x; g < row_.groups(); g += kChoiceThreads) {
      mass += MassOfGroup(g / kSurveyThreads, static_cast<int>(g % kSurveyThreads));
    }
    return BlockReduce<kChoiceThreads>(mass, SumOf());
  }

  __device__ int32_t operator()(float uniform) const {
    double all = 0, left, before = 0;
    for (int64_t c = 0; c < SurveyChunks(row_.n); c += kChoiceThreads) {
      double of_tile;
      BlockScan<kChoiceThreads>(MassOfChunk(c + threadIdx.x), &of_tile);
      all += of_tile;
    }
    left = uniform * all;
    int64_t chunk = 0;
    double before_chunk = 0;
    for (int64_t c = 0; c < SurveyChunks(row_.n); c += kChoiceThreads) {
      const BlockStep step = StepOver(MassOfChunk(c + threadIdx.x), left - before);
      if (step.thread >= 0) {
        chunk = c + step.thread;
        before_chunk = before + step.before;
      }
      if (step.passed) break;
      before += step.all;
    }
    return InChunk(chunk, left - before_chunk);
  }

 private:
  __device__ float WeightOf(float value) const {
    return value >= least_ ? SoftmaxWeight(value, max_, scale_) : 0;
  }

  __device__ float MassOfGroup(int64_t chunk, int group) const {
    const int64_t g = chunk * kSurveyThreads + group;
    float mass = 0;
    if (!(row_.peaks[g] >= least_)) return 0;
    row_.ForGroup(g, [&](float value, int64_t) { mass += WeightOf(value); });
    return mass;
  }

  __device__ double MassOfChunk(int64_t c) const {
    if (c >= SurveyChunks(row_.n) || !(masses_[c].max > -INFINITY)) return 0;
    return static_cast<double>(SoftmaxWeight(masses_[c].max, max_, scale_)) * masses_[c].scaled;
  }

  /// Threads take parts of a chunk that follow each other, then one takes token by token.
  __device__ int32_t InChunk(int64_t chunk, double left) const {
    constexpr int kPart = kChunkElements / kChoiceThreads;
    __shared__ int32_t drawn;
    const int64_t begin = chunk * kChunkElements + int64_t{threadIdx.x} * kPart;
    const auto for_part = [&](auto fn) {
      for (int i = 0; i < kPart; i += SurveyedRow<T>::kLanes) row_.ForVector(begin + i, fn);
    };
    double mass = 0;
    for_part([&](float value, int64_t) { mass += WeightOf(value); });
    const BlockStep step = StepOver(mass, left);
    if (static_cast<int>(threadIdx.x) == step.thread) {
      double sum = step.before;
      int64_t last = begin;
      bool passed = false;
      for_part([&](float value, int64_t id) {
        const float weight = WeightOf(value);
        if (passed || weight <= 0) return;
        last = id;
        sum += weight;
        passed = sum > left;
      });
      drawn = static_cast<int32_t>(last);
    }
    __syncthreads();
    const int32_t id = drawn;
    __syncthreads();  // before the next row's
    return id;
  }

  SurveyedRow<T> row_;
  ChunkMass* masses_;
  float max_, scale_, least_;
};

}  // namespace mlf
