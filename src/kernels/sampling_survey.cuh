// The survey of rows of logits on CUDA: one read that finds the peak of each group of 32 elements
// and the softmax mass of each chunk, after which the best elements are found by few more reads.
// Counterparts: sampling_launch.h, ranking.h (GroupPeaks).
#pragma once
#include <cmath>

#include "kernels/cuda_rank.cuh"
#include "kernels/cuda_reduce.cuh"
#include "kernels/cuda_row.cuh"
#include "kernels/sampling_launch.h"

namespace mlf {

template <typename T>
using SurveyChunk = RowChunk<T, kSurveyThreads, kGroupElements / kVectorLanes<T>>;

/// Of one chunk. Masses are relative to its own maximum.
struct alignas(16) ChunkMass {
  float max;     // but NaN
  float mass;    // at temperature 1
  float scaled;  // at the row's temperature
};

/// x[count], all that is left of the row. Reads the chunk again, from the first-level cache: kept
/// over the barriers before, it would be kept as floats, in up to twice the registers.
template <typename T>
__device__ ChunkMass MassOfChunk(const T* x, int64_t count, float max, float temperature) {
  if (!(max > -INFINITY)) return {max, 0, 0};
  const bool scales = temperature != 1 && temperature > 0;
  const float scale = kLog2E / temperature;
  SurveyChunk<T> chunk;
  chunk.Load(x, count, FromFloat<T>(-INFINITY));
  float mass = 0, scaled = 0;
#pragma unroll
  for (const auto& vector : chunk.vector) {
    float of_vector = 0, scaled_of_vector = 0;  // few additions round
#pragma unroll
    for (const T lane : vector.lane) {
      const auto value = static_cast<float>(lane);
      of_vector += SoftmaxWeight(value, max, kLog2E);
      if (scales) scaled_of_vector += SoftmaxWeight(value, max, scale);
    }
    mass += of_vector;
    scaled += scaled_of_vector;
  }
  mass = BlockReduce<kSurveyThreads>(mass, SumOf());
  if (scales) scaled = BlockReduce<kSurveyThreads>(scaled, SumOf());
  return {max, mass, scales ? scaled : mass};
}

/// peaks [rows, SurveyGroups(n)]: the largest of each group but NaN. masses [rows,
/// SurveyChunks(n)], null where only peaks are wanted.
template <typename T>
__global__ void __launch_bounds__(kSurveyThreads, 4)
    SurveyKernel(const T* x, int64_t rows, int64_t n, CudaRowParameter<float> temperature,
                 float* peaks, ChunkMass* masses) {
  const int64_t chunks = SurveyChunks(n), items = rows * chunks;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t row = item / chunks, begin = item % chunks * kChunkElements;
    const T* part = x + row * n + begin;
    SurveyChunk<T> chunk;
    chunk.Load(part, n - begin, FromFloat<T>(-INFINITY));
    float peak = -INFINITY;
#pragma unroll
    for (const auto& vector : chunk.vector) {
#pragma unroll
      for (const T lane : vector.lane) peak = fmaxf(static_cast<float>(lane), peak);
    }
    peaks[item * kSurveyThreads + threadIdx.x] = peak;
    if (masses == nullptr) continue;
    const float max = BlockReduce<kSurveyThreads>(peak, MaxOf());
    const ChunkMass mass = MassOfChunk(part, n - begin, max, temperature[row]);
    if (threadIdx.x == 0) masses[item] = mass;
  }
}

/// A row that was surveyed, for the block that chooses from it.
template <typename T>
struct SurveyedRow {
  static constexpr int kLanes = kVectorLanes<T>;

  const T* x;
  int64_t n;
  const float* peaks;

  __device__ int64_t groups() const { return SurveyGroups(n); }

  /// fn(value, id) for the elements of group g, the lowest id first.
  template <typename Fn>
  __device__ void ForGroup(int64_t g, Fn fn) const {
    const int64_t begin = g / kSurveyThreads * kChunkElements;
    for (int v = 0; v < kGroupElements / kLanes; ++v) {
      const int64_t at = begin + (v * kSurveyThreads + g % kSurveyThreads) * kLanes;
      ForVector(at, fn);
    }
  }

  /// fn(value, id) for all elements, by all threads of the block.
  template <typename Fn>
  __device__ void ForAll(Fn fn) const {
    for (int64_t at = int64_t{threadIdx.x} * kLanes; at < n; at += kChoiceThreads * kLanes) {
      ForVector(at, fn);
    }
  }

  /// fn(value, id) for those of the kLanes elements from `at` that lie in the row.
  template <typename Fn>
  __device__ void ForVector(int64_t at, Fn fn) const {
    if (at >= n) return;
    const auto vector =
        SurveyChunk<T>::LoadPart(x, at, n, StartsVector(x), FromFloat<T>(-INFINITY));
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      if (at + i < n) fn(static_cast<float>(vector.lane[i]), at + i);
    }
  }
};

}  // namespace mlf
