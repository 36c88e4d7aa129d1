// Rows of logits as threads read them, and parameters of rows, for CUDA kernels. Counterpart:
// row_parameters.h.
#pragma once
#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_vector.cuh"

namespace mlf {

/// Whether 16 bytes can be read at once; for kernels, where each row has its own answer.
__device__ inline bool StartsVector(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

/// kVectors vectors of each of kThreads threads: the unit that a block works on. Which thread holds
/// which element depends on its place in the chunk alone, so that sums have the same bits in any
/// row of any batch.
template <typename T, int kThreads, int kVectors>
struct RowChunk {
  static constexpr int kLanes = kVectorLanes<T>;
  static constexpr int kElements = kThreads * kVectors * kLanes;
  using Vector = CudaVector<T, kLanes>;

  Vector vector[kVectors];

  /// Where vector v of this thread begins in the chunk.
  __device__ static int Begin(int v) {
    return (v * kThreads + static_cast<int>(threadIdx.x)) * kLanes;
  }

  /// Of x[count], all that is left of the row from the chunk's begin; `fill` beyond it.
  __device__ void Load(const T* x, int64_t count, T fill) {
    if (count >= kElements && StartsVector(x)) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        vector[v] = LoadVector(reinterpret_cast<const Vector*>(x + Begin(v)));
      }
      return;
    }
    const bool aligned = StartsVector(x);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) vector[v] = LoadPart(x, Begin(v), count, aligned, fill);
  }

  /// Writes what lies in the row.
  __device__ void Store(T* x, int64_t count) const {
    const bool aligned = StartsVector(x);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int begin = Begin(v);
      if (aligned && begin + kLanes <= count) {
        StoreVector(reinterpret_cast<Vector*>(x + begin), vector[v]);
        continue;
      }
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        if (begin + i < count) x[begin + i] = vector[v].lane[i];
      }
    }
  }

  /// The vector of x[count] that begins at `begin`.
  __device__ static Vector LoadPart(const T* x, int64_t begin, int64_t count, bool aligned,
                                    T fill) {
    if (aligned && begin + kLanes <= count) {
      return LoadVector(reinterpret_cast<const Vector*>(x + begin));
    }
    Vector part;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) part.lane[i] = begin + i < count ? x[begin + i] : fill;
    return part;
  }
};

/// One value per row, the same default where the tensor is absent.
template <typename T>
struct CudaRowParameter {
  const T* values;
  T fallback;

  CudaRowParameter(const ffi::Optional<TensorView>& t, T otherwise)
      : values(t.has_value() ? Data<const T>(*t) : nullptr), fallback(otherwise) {}
  __device__ T operator[](int64_t row) const { return values == nullptr ? fallback : values[row]; }
};

/// For the list of a call's tensors: one that is always there in place of one that is absent.
inline TensorView GivenOr(const ffi::Optional<TensorView>& t, const TensorView& other) {
  return t.has_value() ? *t : other;
}

}  // namespace mlf
