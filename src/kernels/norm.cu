// Normalisation on CUDA. Counterparts: norm.h, norm.cc (the ops, which find these kernels by their
// registered names).
#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_vector.cuh"
#include "kernels/norm_launch.h"

namespace mlf {
namespace {

/// kThreads threads share a row: a whole block, or one warp of it.
template <int kThreads>
__device__ float RowSum(float v) {
  if constexpr (kThreads == kWarp) return WarpSum(v);
  return BlockSum<kThreads>(v);
}

template <typename T, int kN>
__device__ CudaVector<T, kN> Added(const CudaVector<T, kN>& a, const CudaVector<T, kN>& b) {
  CudaVector<T, kN> out;
#pragma unroll
  for (int i = 0; i < kN; ++i)
    out.lane[i] = FromFloat<T>(static_cast<float>(a.lane[i]) + static_cast<float>(b.lane[i]));
  return out;
}

/// What one thread has of a row of n vectors: every kThreads-th.
template <typename T, int kN, int kThreads>
class RowPart {
 public:
  using Vector = CudaVector<T, kN>;

  __device__ explicit RowPart(int64_t n) : n_(n), first_(threadIdx.x % kThreads) {}

  /// Reads what is held: all of a row that is not long, all accesses at once.
  __device__ void Load(const Vector* row) {
#pragma unroll
    for (int i = 0; i < kNormHeld; ++i) {
      if (At(i) < n_) held_[i] = LoadVector(row + At(i));
    }
  }

  /// Adds what `other` holds, rounded to T.
  __device__ void Add(const RowPart& other) {
#pragma unroll
    for (int i = 0; i < kNormHeld; ++i) {
      if (At(i) < n_) held_[i] = Added(held_[i], other.held_[i]);
    }
  }

  /// Calls fn(vector, index) for what is held.
  template <typename Fn>
  __device__ void ForHeld(Fn fn) const {
#pragma unroll
    for (int i = 0; i < kNormHeld; ++i) {
      if (At(i) < n_) fn(held_[i], At(i));
    }
  }

  /// Calls fn(index) for the rest.
  template <typename Fn>
  __device__ void ForRest(Fn fn) const {
#pragma unroll 1
    for (int64_t at = At(kNormHeld); at < n_; at += kThreads) fn(at);
  }

  /// Calls fn(vector, index) for all; the rest comes from `row`.
  template <typename Fn>
  __device__ void ForAll(const Vector* row, Fn fn) const {
    ForHeld(fn);
    ForRest([&](int64_t at) { fn(LoadVector(row + at), at); });
  }

 private:
  __device__ int64_t At(int i) const { return first_ + i * kThreads; }

  Vector held_[kNormHeld];
  int64_t n_;
  int first_;
};

/// Sum of the squared distances to `mean`.
template <typename T, int kN>
__device__ float Squares(const CudaVector<T, kN>& v, float mean) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    const float f = static_cast<float>(v.lane[i]) - mean;
    sum = fmaf(f, f, sum);
  }
  return sum;
}

template <typename T, int kN>
__device__ float Sum(const CudaVector<T, kN>& v) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kN; ++i) sum += static_cast<float>(v.lane[i]);
  return sum;
}

template <typename T, int kN>
__device__ CudaVector<T, kN> Scaled(const CudaVector<T, kN>& x, const CudaVector<T, kN>& weight,
                                    float scale) {
  CudaVector<T, kN> out;
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    out.lane[i] =
        FromFloat<T>(static_cast<float>(x.lane[i]) * scale * static_cast<float>(weight.lane[i]));
  }
  return out;
}

/// 1 / sqrt(mean of the squares + eps); kN elements in each of n vectors.
template <int kThreads, int kN>
__device__ float InverseDeviation(float squares, int64_t n, float eps) {
  return 1.f / sqrtf(RowSum<kThreads>(squares) / static_cast<float>(n * kN) + eps);
}

// ---- the rows -----------------------------------------------------------------------------------

// `out` may be `x` in each: a thread has read what it writes, or reads it just before, and no other
// thread reads it after.

template <typename T, int kN_>
struct RmsNorm {
  static constexpr int kN = kN_;
  using Vector = CudaVector<T, kN>;
  Vector* out;
  const Vector *x, *weight;
  float eps;

  template <int kThreads>
  __device__ void Row(int64_t begin, int64_t n) const {
    RowPart<T, kN, kThreads> part(n);
    part.Load(x + begin);
    float squares = 0.f;
    part.ForAll(x + begin, [&](const Vector& v, int64_t) { squares += Squares(v, 0.f); });
    const float scale = InverseDeviation<kThreads, kN>(squares, n, eps);
    part.ForAll(x + begin, [&](const Vector& v, int64_t at) {
      out[begin + at] = Scaled(v, LoadConstVector(weight + at), scale);
    });
  }
};

template <typename T, int kN_>
struct AddRmsNorm {
  static constexpr int kN = kN_;
  using Vector = CudaVector<T, kN>;
  Vector *out, *residual;
  const Vector *x, *weight;
  float eps;

  template <int kThreads>
  __device__ void Row(int64_t begin, int64_t n) const {
    RowPart<T, kN, kThreads> part(n), added(n);
    part.Load(residual + begin);
    added.Load(x + begin);
    part.Add(added);
    float squares = 0.f;
    part.ForHeld([&](const Vector& v, int64_t at) {
      residual[begin + at] = v;
      squares += Squares(v, 0.f);
    });
    part.ForRest([&](int64_t at) {
      const Vector v = Added(LoadVector(residual + begin + at), LoadVector(x + begin + at));
      residual[begin + at] = v;
      squares += Squares(v, 0.f);
    });
    const float scale = InverseDeviation<kThreads, kN>(squares, n, eps);
    part.ForAll(residual + begin, [&](const Vector& v, int64_t at) {
      out[begin + at] = Scaled(v, LoadConstVector(weight + at), scale);
    });
  }
};

template <typename T, int kN_>
struct LayerNorm {
  static constexpr int kN = kN_;
  using Vector = CudaVector<T, kN>;
  Vector* out;
  const Vector *x, *weight, *bias;  // bias may be null
  float eps;

  template <int kThreads>
  __device__ void Row(int64_t begin, int64_t n) const {
    RowPart<T, kN, kThreads> part(n);
    part.Load(x + begin);
    float sum = 0.f, squares = 0.f;
    part.ForAll(x + begin, [&](const Vector& v, int64_t) { sum += Sum(v); });
    const float mean = RowSum<kThreads>(sum) / static_cast<float>(n * kN);
    // Of the distances: the difference of two large sums would have lost a small variance.
    part.ForAll(x + begin, [&](const Vector& v, int64_t) { squares += Squares(v, mean); });
    const float scale = InverseDeviation<kThreads, kN>(squares, n, eps);
    part.ForAll(x + begin, [&](const Vector& v, int64_t at) {
      const Vector gain = LoadConstVector(weight + at);
      Vector shift{};  // zeros
      if (bias != nullptr) shift = LoadConstVector(bias + at);
      Vector result;
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        result.lane[i] =
            FromFloat<T>(fmaf((static_cast<float>(v.lane[i]) - mean) * scale,
                              static_cast<float>(gain.lane[i]), static_cast<float>(shift.lane[i])));
      }
      out[begin + at] = result;
    });
  }
};

// ---- launches -----------------------------------------------------------------------------------

template <typename Norm, int kThreads>
__global__ void __launch_bounds__(kNormThreads) NormKernel(Norm norm, int64_t rows, int64_t n) {
  constexpr int kRows = kNormThreads / kThreads;
  const int64_t stride = int64_t{gridDim.x} * kRows;
  for (int64_t r = int64_t{blockIdx.x} * kRows + threadIdx.x / kThreads; r < rows; r += stride)
    norm.template Row<kThreads>(r * n, n);
}

/// One launch over rows of n vectors.
template <typename Norm>
void Launch(const CudaCall& call, const Norm& norm, int64_t rows, int64_t n) {
  const auto kernel =
      NormThreadsOfRow(n) == kWarp ? NormKernel<Norm, kWarp> : NormKernel<Norm, kNormThreads>;
  call.Launch(kernel, NormBlocks(rows, n), kNormThreads, 0, norm, rows, n);
}

/// Norm over the rows of x, in vectors of 16 bytes where all views permit; `views` are the pointers
/// of Norm in their order.
template <template <typename, int> typename Norm, typename... Views>
void LaunchRows(const CudaCall& call, const TensorView& x, double eps, const Views&... views) {
  const int64_t hidden = x.size(x.ndim() - 1);
  if (x.numel() == 0) return;
  const auto launch = [&]<typename T, int kN>() {
    Launch(call,
           Norm<T, kN>{reinterpret_cast<CudaVector<T, kN>*>(Data<T>(views))...,
                       static_cast<float>(eps)},
           x.numel() / hidden, hidden / kN);
  };
  DispatchFloat(x.dtype(), [&]<typename T>() {
    if (hidden % kVectorLanes<T> == 0 && (IsVectorAligned(Data<T>(views)) && ...)) {
      launch.template operator()<T, kVectorLanes<T>>();
    } else {
      launch.template operator()<T, 1>();
    }
  });
}

// The slots; the ops have checked all that CudaCall does not.

void RmsNormCuda(TensorView out, TensorView x, TensorView weight, double eps) {
  const CudaCall call("rms_norm", {{"x", x}, {"weight", weight}, {"out", out}});
  LaunchRows<RmsNorm>(call, x, eps, out, x, weight);
}

void AddRmsNormCuda(TensorView out, TensorView residual, TensorView x, TensorView weight,
                    double eps) {
  const CudaCall call("add_rms_norm",
                      {{"x", x}, {"residual", residual}, {"weight", weight}, {"out", out}});
  LaunchRows<AddRmsNorm>(call, x, eps, out, residual, x, weight);
}

void LayerNormCuda(TensorView out, TensorView x, TensorView weight, TensorView bias, double eps) {
  const CudaCall call("layer_norm", {{"x", x}, {"weight", weight}, {"bias", bias}, {"out", out}});
  LaunchRows<LayerNorm>(call, x, eps, out, x, weight, bias);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.rms_norm.cuda", RmsNormCuda);
  RegisterCudaKernel("my_llm_ffi.add_rms_norm.cuda", AddRmsNormCuda);
  RegisterCudaKernel("my_llm_ffi.layer_norm.cuda", LayerNormCuda);
}

}  // namespace
}  // namespace mlf
