// Softmax and its logarithm on CUDA. Counterparts: softmax.h, softmax.cc, softmax_launch.h.
#include <cfloat>
#include <cmath>

#include "kernels/cuda_elements_launch.h"
#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_scratch.cuh"
#include "kernels/cuda_vector.cuh"
#include "kernels/softmax.h"
#include "kernels/softmax_launch.h"

namespace mlf {
namespace {

enum class Form { kProbability, kLogarithm };

/// A score is y / linear, y as in softmax.h, so that the largest one's difference is 0 to the bit:
/// x with the sign of the scale, or the tangent's.
struct Scores {
  float multiplier;  // of x
  float power;       // of differences, for 2^: linear * log2(e)
  float linear;
};

/// A maximum of scores, at least the lowest finite float, and the sum of 2^(power * differences).
/// NaN goes into the sum alone.
struct Part {
  float max, sum;
};
static_assert(sizeof(Part) == kSoftmaxPartBytes);

/// Rows as kernels see them. `out` may be x: a thread writes what it alone has read, and all of a
/// row has been read once before any is written.
template <typename T>
struct Rows {
  T* out;
  const T* x;
  int64_t rows, n, segments;
  bool aligned;  // every row, to 16 bytes
  Scores scores;
};

template <typename T>
inline constexpr int kLaneValues = kSoftmaxHeld * kVectorLanes<T>;

__device__ inline float WarpMax(float v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, offset));
  }
  return v;
}

/// A warp's segment of a row: which elements are whose, and what becomes of them.
template <typename T, bool kCapped, Form kForm>
class Segment {
 public:
  static constexpr int kN = kVectorLanes<T>;
  using Vector = CudaVector<T, kN>;

  __device__ Segment(const Rows<T>& rows, int64_t row, int64_t segment)
      : rows_(rows),
        row_(row * rows.n),
        first_(segment * kWarp * kLaneValues<T> + threadIdx.x % kWarp * kN) {}

  __device__ void Load() {
#pragma unroll
    for (int i = 0; i < kSoftmaxHeld; ++i) {
      const int64_t at = At(i);
      const T* from = rows_.x + row_ + at;
      if (rows_.aligned && at + kN <= rows_.n) {
        v_[i] = LoadVector(reinterpret_cast<const Vector*>(from));
      } else {
#pragma unroll
        for (int j = 0; j < kN; ++j) v_[i].lane[j] = at + j < rows_.n ? from[j] : T{};
      }
    }
  }

  // By way of shared memory, where every thread has its own places.
  __device__ void Put(Vector* stage) const {
#pragma unroll
    for (int i = 0; i < kSoftmaxHeld; ++i) stage[i * kWarp] = v_[i];
  }
  __device__ void Take(const Vector* stage) {
#pragma unroll
    for (int i = 0; i < kSoftmaxHeld; ++i) v_[i] = stage[i * kWarp];
  }

  /// Scores of what was loaded; -inf where the row has no elements.
  __device__ void Score(float (&s)[kLaneValues<T>]) const {
#pragma unroll
    for (int i = 0; i < kSoftmaxHeld; ++i) {
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        const float x = static_cast<float>(v_[i].lane[j]) * rows_.scores.multiplier;
        s[i * kN + j] = At(i) + j < rows_.n ? (kCapped ? tanhf(x) : x) : -INFINITY;
      }
    }
  }

  /// The part of scores. Probabilities get exponentials in their place.
  __device__ Part Reduce(float (&s)[kLaneValues<T>]) const {
    float largest = -FLT_MAX, sum = 0.f;
#pragma unroll
    for (const float v : s) largest = fmaxf(largest, v);
    largest = WarpMax(largest);
#pragma unroll
    for (float& v : s) {
      const float e = Power(v, largest);
      sum += e;
      if constexpr (kForm == Form::kProbability) v = e;
    }
    return {largest, WarpSum(sum)};
  }

  /// The same for a segment whose maximum is known.
  __device__ void Exponentials(float (&s)[kLaneValues<T>], float largest) const {
    if constexpr (kForm == Form::kProbability) {
#pragma unroll
      for (float& v : s) v = Power(v, largest);
    }
  }

  /// What Reduce left: times `factor`, or less `max` and `norm`.
  __device__ void Write(const float (&s)[kLaneValues<T>], float factor, float max,
                        float norm) const {
#pragma unroll
    for (int i = 0; i < kSoftmaxHeld; ++i) {
      Vector v;
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        const float value = s[i * kN + j];
        v.lane[j] =
            FromFloat<T>(kForm == Form::kProbability ? value * factor
                                                     : (value - max) * rows_.scores.linear - norm);
      }
      const int64_t at = At(i);
      T* to = rows_.out + row_ + at;
      if (rows_.aligned && at + kN <= rows_.n) {
        StoreVector(reinterpret_cast<Vector*>(to), v);
      } else {
#pragma unroll
        for (int j = 0; j < kN; ++j) {
          if (at + j < rows_.n) to[j] = v.lane[j];
        }
      }
    }
  }

  __device__ float Power(float score, float max) const {
    return exp2f((score - max) * rows_.scores.power);
  }

 private:
  __device__ int64_t At(int i) const { return first_ + i * kWarp * kN; }

  const Rows<T>& rows_;
  int64_t row_, first_;
  Vector v_[kSoftmaxHeld];
};

/// What a row's parts come to. Every warp joins all of them, in the same order.
struct Total {
  float max, sum;

  __device__ Total(const Part* parts, int64_t count, const Scores& scores) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    max = -FLT_MAX;
    for (int64_t i = lane; i < count; i += kWarp) max = fmaxf(max, parts[i].max);
    max = WarpMax(max);
    sum = 0.f;
    for (int64_t i = lane; i < count; i += kWarp) {
      sum += parts[i].sum * exp2f((parts[i].max - max) * scores.power);
    }
    sum = WarpSum(sum);
  }

  /// What makes probabilities of exponentials less `part_max`.
  __device__ float Factor(float part_max, const Scores& scores) const {
    return exp2f((part_max - max) * scores.power) / sum;
  }
  __device__ float Norm() const { return logf(sum); }
};

/// A warp to a row of one segment.
template <typename T, bool kCapped, Form kForm>
__global__ void __launch_bounds__(kSoftmaxRowsThreads)
    SoftmaxShortKernel(const __grid_constant__ Rows<T> rows) {
  constexpr int kWarps = kSoftmaxRowsThreads / kWarp;
  const int64_t stride = int64_t{gridDim.x} * kWarps;
  for (int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; r < rows.rows; r += stride) {
    Segment<T, kCapped, kForm> segment(rows, r, 0);
    float s[kLaneValues<T>];
    segment.Load();
    segment.Score(s);
    const Part part = segment.Reduce(s);
    if constexpr (kForm == Form::kProbability) {
      segment.Write(s, 1.f / part.sum, 0.f, 0.f);
    } else {
      segment.Write(s, 0.f, part.max, logf(part.sum));
    }
  }
}

/// Writes a segment of a row whose parts are known.
template <typename T, bool kCapped, Form kForm>
__device__ inline void Finish(const Segment<T, kCapped, kForm>& segment, const Rows<T>& rows,
                              const float (&s)[kLaneValues<T>], float part_max,
                              const Total& total) {
  if constexpr (kForm == Form::kProbability) {
    segment.Write(s, total.Factor(part_max, rows.scores), 0.f, 0.f);
  } else {
    segment.Write(s, 0.f, total.max, total.Norm());
  }
}

/// A block to a row (2^30 rows of two segments would be more than any memory). A warp keeps its
/// first segment in registers, the next ones in shared memory while there is room, and reads the
/// rest again.
template <typename T, bool kCapped, Form kForm>
__global__ void __launch_bounds__(kSoftmaxThreads, 1)  // long rows fill a multiprocessor's memory
    SoftmaxRowKernel(const __grid_constant__ Rows<T> rows,
                     const __grid_constant__ SoftmaxShared shared) {
  using Own = Segment<T, kCapped, kForm>;
  auto* parts = DynamicShared<Part>();
  auto* stage = reinterpret_cast<typename Own::Vector*>(DynamicShared<uint8_t>() + shared.stage_at);
  const int warps = static_cast<int>(blockDim.x) / kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto place = [&](int64_t segment) {
    return stage + (segment - warps) * kSoftmaxHeld * kWarp + lane;
  };
  const int64_t r = blockIdx.x;
  float held[kLaneValues<T>];
  Own first(rows, r, warp);
  first.Load();
  first.Score(held);
  const Part part = first.Reduce(held);
  if (lane == 0) parts[warp] = part;
  for (int64_t i = warp + warps; i < rows.segments; i += warps) {
    float s[kLaneValues<T>];
    Own segment(rows, r, i);
    segment.Load();
    if (i - warps < shared.staged) segment.Put(place(i));
    segment.Score(s);
    const Part next = segment.Reduce(s);
    if (lane == 0) parts[i] = next;
  }
  __syncthreads();
  const Total total(parts, rows.segments, rows.scores);
  Finish(first, rows, held, part.max, total);
  for (int64_t i = warp + warps; i < rows.segments; i += warps) {
    float s[kLaneValues<T>];
    Own segment(rows, r, i);
    if (i - warps < shared.staged) {
      segment.Take(place(i));
    } else {
      segment.Load();
    }
    segment.Score(s);
    segment.Exponentials(s, parts[i].max);
    Finish(segment, rows, s, parts[i].max, total);
  }
}

/// A warp to a segment, rows along y: the parts of all rows ...
template <typename T, bool kCapped, Form kForm>
__global__ void __launch_bounds__(kSoftmaxRowsThreads)
    SoftmaxPartsKernel(const __grid_constant__ Rows<T> rows, Part* parts) {
  const int64_t i = int64_t{blockIdx.x} * kSoftmaxSplitWarps + threadIdx.x / kWarp;
  if (i >= rows.segments) return;
  Segment<T, kCapped, kForm> segment(rows, blockIdx.y, i);
  float s[kLaneValues<T>];
  segment.Load();
  segment.Score(s);
  const Part part = segment.Reduce(s);
  if (threadIdx.x % kWarp == 0) parts[blockIdx.y * rows.segments + i] = part;
}

/// ... and what comes of them.
template <typename T, bool kCapped, Form kForm>
__global__ void __launch_bounds__(kSoftmaxRowsThreads)
    SoftmaxFinishKernel(const __grid_constant__ Rows<T> rows, const Part* parts) {
  const int64_t i = int64_t{blockIdx.x} * kSoftmaxSplitWarps + threadIdx.x / kWarp;
  if (i >= rows.segments) return;
  const Part* row_parts = parts + blockIdx.y * rows.segments;
  Segment<T, kCapped, kForm> segment(rows, blockIdx.y, i);
  float s[kLaneValues<T>];
  segment.Load();
  const Total total(row_parts, rows.segments, rows.scores);
  segment.Score(s);
  segment.Exponentials(s, row_parts[i].max);
  Finish(segment, rows, s, row_parts[i].max, total);
}

/// A block to a row of any length: each warp joins the parts of its segments.
template <typename T, bool kCapped, Form kForm>
__global__ void __launch_bounds__(kSoftmaxThreads)
    SoftmaxLongKernel(const __grid_constant__ Rows<T> rows) {
  constexpr int kWarps = kSoftmaxThreads / kWarp;
  __shared__ Part parts[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t r = blockIdx.x;
  Part own{-FLT_MAX, 0.f};
  for (int64_t i = warp; i < rows.segments; i += kWarps) {
    float s[kLaneValues<T>];
    Segment<T, kCapped, kForm> segment(rows, r, i);
    segment.Load();
    segment.Score(s);
    const Part part = segment.Reduce(s);
    const float max = fmaxf(own.max, part.max);
    own = {max, own.sum * segment.Power(own.max, max) + part.sum * segment.Power(part.max, max)};
  }
  if (threadIdx.x % kWarp == 0) parts[warp] = own;
  __syncthreads();
  const Total total(parts, kWarps, rows.scores);
  for (int64_t i = warp; i < rows.segments; i += kWarps) {
    float s[kLaneValues<T>];
    Segment<T, kCapped, kForm> segment(rows, r, i);
    segment.Load();
    segment.Score(s);
    segment.Exponentials(s, total.max);
    Finish(segment, rows, s, total.max, total);
  }
}

template <typename T, bool kCapped, Form kForm>
void LaunchRows(const CudaCall& call, const Rows<T>& rows) {
  const auto blocks = [&](int64_t per_block) { return BlocksOf(rows.rows, per_block); };
  if (rows.segments == 1) {
    return call.Launch(SoftmaxShortKernel<T, kCapped, kForm>, blocks(kSoftmaxSplitWarps),
                       kSoftmaxRowsThreads, 0, rows);
  }
  if (rows.segments > kSoftmaxMaxParts) {
    return call.Launch(SoftmaxLongKernel<T, kCapped, kForm>, blocks(1), kSoftmaxThreads, 0, rows);
  }
  // Scratch memory comes from the caller's framework, if that has offered any.
  if (SoftmaxSplits(rows.rows, rows.segments, call.multiprocessors()) && CudaScratch::IsOffered()) {
    ScratchPlan plan;
    const int64_t at = plan.Add<Part>(rows.rows * rows.segments);
    const CudaScratch scratch(call, plan);
    auto* parts = scratch.At<Part>(at);
    const dim3 grid(BlocksOf(rows.segments, kSoftmaxSplitWarps), static_cast<unsigned>(rows.rows));
    call.Launch(SoftmaxPartsKernel<T, kCapped, kForm>, grid, kSoftmaxRowsThreads, 0, rows, parts);
    return call.Launch(SoftmaxFinishKernel<T, kCapped, kForm>, grid, kSoftmaxRowsThreads, 0, rows,
                       parts);
  }
  const int capability = call.compute_capability(),
            threads = SoftmaxThreads(rows.rows, rows.segments, call.multiprocessors(), capability);
  const SoftmaxShared shared = SoftmaxSharedOf(rows.segments, threads, capability);
  call.Launch(SoftmaxRowKernel<T, kCapped, kForm>, blocks(1), threads, shared.Bytes(), rows,
              shared);
}

Scores ScoresOf(double scale, double soft_cap) {
  constexpr double kLog2E = 1.4426950408889634;
  // At least the least float and at most the largest: times 0 it must stay 0, and times -inf -inf.
  const auto bounded = [](double v) {
    return static_cast<float>(std::clamp<double>(v, FLT_TRUE_MIN, FLT_MAX));
  };
  const double linear = soft_cap == 0 ? std::abs(scale) : soft_cap;
  const float multiplier =
      soft_cap == 0 ? (scale < 0 ? -1.f : 1.f) : static_cast<float>(scale / soft_cap);
  return {multiplier, bounded(linear * kLog2E), bounded(linear)};
}

template <Form kForm>
void Softmax(const char* name, const TensorView& out, const TensorView& x, double scale,
             double soft_cap) {
  const CudaCall call(name, {{"x", x}, {"out", out}});
  const int64_t n = x.size(x.ndim() - 1);
  DispatchFloat(x.dtype(), [&]<typename T>() {
    T* o = Data<T>(out);
    const T* i = Data<const T>(x);
    const bool aligned = IsVectorAligned(o) && IsVectorAligned(i) && n % kVectorLanes<T> == 0;
    const Rows<T> rows{
        o, i, x.numel() / n, n, SoftmaxSegments(n, sizeof(T)), aligned, ScoresOf(scale, soft_cap)};
    const auto launch = soft_cap == 0 ? LaunchRows<T, false, kForm> : LaunchRows<T, true, kForm>;
    launch(call, rows);
  });
}

void SoftmaxCuda(TensorView out, TensorView x, double scale, double soft_cap) {
  Softmax<Form::kProbability>("softmax", out, x, scale, soft_cap);
}

void LogSoftmaxCuda(TensorView out, TensorView x, double scale, double soft_cap) {
  Softmax<Form::kLogarithm>("log_softmax", out, x, scale, soft_cap);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.softmax.cuda", SoftmaxCuda);
  RegisterCudaKernel("my_llm_ffi.log_softmax.cuda", LogSoftmaxCuda);
}

}  // namespace
}  // namespace mlf
