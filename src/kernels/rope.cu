// Rotary position embedding on CUDA. Counterparts: rope.h, rope.cc.
#include <cmath>

#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_vector.cuh"
#include "kernels/rope.h"
#include "kernels/rope_launch.h"

namespace mlf {
namespace {

/// Turns of some pairs at position 1, by value in the launch, so that no thread has a power to
/// compute; more pairs take more launches.
struct Turns {
  double of[kRopePairs];
};

/// What a launch knows of angles: pairs first … first + count - 1 of all `pairs`.
struct Angles {
  const void* positions;
  bool wide;             // int64, not int32
  const float* factors;  // of all pairs, or null
  int64_t pairs, first;
  int count;
  float magnitude;

  __device__ double Position(int64_t token) const {
    return wide ? static_cast<double>(static_cast<const int64_t*>(positions)[token])
                : static_cast<double>(static_cast<const int32_t*>(positions)[token]);
  }
};

struct CosSin {
  float cos, sin;
};

/// Of t turns. Whole turns and quarters go off in double; what is left is at most an eighth.
__device__ inline CosSin OfTurns(double t, float magnitude) {
  const double quarters = (t - rint(t)) * 4.0, whole = rint(quarters);
  const float rest = static_cast<float>(quarters - whole) * 0.5f;
  float s, c;
  sincospif(rest, &s, &c);
  const int n = static_cast<int>(whole) & 3;
  const float cos = n & 1 ? s : c, sin = n & 1 ? c : s;
  return {(n == 1 || n == 2 ? -cos : cos) * magnitude, (n & 2 ? -sin : sin) * magnitude};
}

__device__ inline CosSin AngleOf(const Angles& a, const Turns& turns, int64_t token, int pair) {
  double turn = turns.of[pair];
  if (a.factors != nullptr) turn /= static_cast<double>(a.factors[a.first + pair]);
  return OfTurns(turn * a.Position(token), a.magnitude);
}

__global__ void __launch_bounds__(kRopeThreads)
    RopeAnglesKernel(float* cos_sin, int64_t tokens, const __grid_constant__ Angles a,
                     const __grid_constant__ Turns turns) {
  for (int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    float* cos = cos_sin + 2 * t * a.pairs + a.first;
    for (int i = static_cast<int>(threadIdx.x); i < a.count; i += kRopeThreads) {
      const CosSin angle = AngleOf(a, turns, t, i);
      cos[i] = angle.cos;
      cos[a.pairs + i] = angle.sin;
    }
  }
}

// ---- rotation -----------------------------------------------------------------------------------

/// Heads whose first dimensions turn, of one tensor or two: a token's are q's, then k's.
template <typename T>
struct Heads {
  T *q, *k;
  int q_heads, k_heads;
  int64_t head_dim, pairs, first;  // `first` as in Angles

  __device__ T* At(int64_t token, int head) const {
    return head < q_heads ? q + (token * q_heads + head) * head_dim
                          : k + (token * k_heads + head - q_heads) * head_dim;
  }
};

__device__ inline void Turn(float& a, float& b, float cos, float sin) {
  const float x = a, y = b;
  a = fmaf(x, cos, -(y * sin));
  b = fmaf(x, sin, y * cos);
}

/// kN pairs from pair i of the launch on, which are two vectors: halves of a head, or neighbours.
template <typename T, int kN, bool kInterleaved>
__device__ inline void TurnPairs(const Heads<T>& heads, T* head, int i, const float* cos,
                                 const float* sin) {
  using Vector = CudaVector<T, kN>;
  const int64_t pair = heads.first + i;
  auto* first = reinterpret_cast<Vector*>(head + (kInterleaved ? 2 * pair : pair));
  auto* second = kInterleaved ? first + 1 : reinterpret_cast<Vector*>(head + heads.pairs + pair);
  Vector v[2] = {LoadVector(first), LoadVector(second)};
#pragma unroll
  for (int j = 0; j < kN; ++j) {
    T& a = kInterleaved ? v[2 * j / kN].lane[2 * j % kN] : v[0].lane[j];
    T& b = kInterleaved ? v[(2 * j + 1) / kN].lane[(2 * j + 1) % kN] : v[1].lane[j];
    float x = static_cast<float>(a), y = static_cast<float>(b);
    Turn(x, y, cos[i + j], sin[i + j]);
    a = FromFloat<T>(x);
    b = FromFloat<T>(y);
  }
  StoreVector(first, v[0]);
  StoreVector(second, v[1]);
}

/// All heads of one token, with sines and cosines in shared memory.
template <typename T, int kN, bool kInterleaved>
__device__ inline void TurnToken(const Heads<T>& heads, int64_t token, int count, const float* cos,
                                 const float* sin) {
  const int of_head = count / kN, all = (heads.q_heads + heads.k_heads) * of_head;
  for (int item = static_cast<int>(threadIdx.x); item < all; item += kRopeThreads) {
    T* head = heads.At(token, item / of_head);
    TurnPairs<T, kN, kInterleaved>(heads, head, item % of_head * kN, cos, sin);
  }
}

template <typename T, int kN, bool kInterleaved>
__global__ void __launch_bounds__(kRopeThreads)
    RopeKernel(const __grid_constant__ Heads<T> heads, int64_t tokens,
               const __grid_constant__ Angles a, const __grid_constant__ Turns turns) {
  __shared__ float cos[kRopePairs], sin[kRopePairs];
  for (int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    for (int i = static_cast<int>(threadIdx.x); i < a.count; i += kRopeThreads) {
      const CosSin angle = AngleOf(a, turns, t, i);
      cos[i] = angle.cos;
      sin[i] = angle.sin;
    }
    __syncthreads();
    TurnToken<T, kN, kInterleaved>(heads, t, a.count, cos, sin);
    __syncthreads();
  }
}

/// The same with sines and cosines from memory, [tokens, 2, pairs].
template <int kN, bool kInterleaved>
__global__ void __launch_bounds__(kRopeThreads)
    RopeRotateKernel(const __grid_constant__ Heads<float> heads, int64_t tokens, int count,
                     const float* cos_sin) {
  __shared__ float cos[kRopePairs], sin[kRopePairs];
  for (int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    const float* from = cos_sin + 2 * t * heads.pairs + heads.first;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kRopeThreads) {
      cos[i] = from[i];
      sin[i] = from[heads.pairs + i];
    }
    __syncthreads();
    TurnToken<float, kN, kInterleaved>(heads, t, count, cos, sin);
    __syncthreads();
  }
}

// ---- launches -----------------------------------------------------------------------------------

/// fn(first pair, pairs) for each launch.
template <typename Fn>
void ForPairs(int64_t pairs, Fn fn) {
  for (int64_t first = 0; first < pairs; first += kRopePairs) {
    fn(first, static_cast<int>(std::min<int64_t>(kRopePairs, pairs - first)));
  }
}

Turns TurnsOf(int64_t pairs, int64_t first, int count, double base, const RopeScaling& scaling) {
  Turns turns{};
  for (int i = 0; i < count; ++i) turns.of[i] = RopeTurn(first + i, pairs, base, scaling);
  return turns;
}

/// Calls fn.template operator()<kN, kInterleaved>() where 16-byte accesses of heads are aligned, or
/// with kN = 1.
template <typename T, typename Fn>
void DispatchPairs(const Heads<T>& heads, bool interleaved, Fn fn) {
  constexpr int kN = kVectorLanes<T>;
  const bool vectors = IsVectorAligned(heads.q) && IsVectorAligned(heads.k) &&
                       heads.head_dim % kN == 0 && heads.pairs % kN == 0;
  if (interleaved) {
    return vectors ? fn.template operator()<kN, true>() : fn.template operator()<1, true>();
  }
  vectors ? fn.template operator()<kN, false>() : fn.template operator()<1, false>();
}

/// The slot `my_llm_ffi.rope.cuda`.
void RopeCuda(TensorView q, TensorView k, TensorView positions, TensorView freq_factors,
              int64_t rotary_dims, bool interleaved, double base, double freq_scale,
              double ramp_low, double ramp_high, double magnitude) {
  if (positions.numel() == 0) return;
  const CudaCall call(
      "rope", {{"q", q}, {"k", k}, {"positions", positions}, {"freq_factors", freq_factors}});
  const int64_t pairs = rotary_dims / 2, tokens = q.size(0);
  const RopeScaling scaling{freq_scale, ramp_low, ramp_high};
  DispatchFloat(q.dtype(), [&]<typename T>() {
    ForPairs(pairs, [&](int64_t first, int count) {
      const Heads<T> heads{Data<T>(q),
                           Data<T>(k),
                           static_cast<int>(q.size(1)),
                           static_cast<int>(k.size(1)),
                           q.size(2),
                           pairs,
                           first};
      const Angles angles{Data<void>(positions),
                          positions.dtype() == kI64,
                          Data<const float>(freq_factors),
                          pairs,
                          first,
                          count,
                          static_cast<float>(magnitude)};
      DispatchPairs(heads, interleaved, [&]<int kN, bool kInterleaved>() {
        call.Launch(RopeKernel<T, kN, kInterleaved>, RopeBlocks(tokens), kRopeThreads, 0, heads,
                    tokens, angles, TurnsOf(pairs, first, count, base, scaling));
      });
    });
  });
}

/// The slot `my_llm_ffi.rope_angles.cuda`.
void RopeAnglesCuda(TensorView cos_sin, TensorView positions, TensorView freq_factors, double base,
                    double freq_scale) {
  if (cos_sin.numel() == 0) return;
  const CudaCall call(
      "rope_angles",
      {{"cos_sin", cos_sin}, {"positions", positions}, {"freq_factors", freq_factors}});
  const int64_t tokens = cos_sin.size(0), pairs = cos_sin.size(2);
  ForPairs(pairs, [&](int64_t first, int count) {
    const Angles angles{
        Data<void>(positions), false, Data<const float>(freq_factors), pairs, first, count, 1.f};
    call.Launch(RopeAnglesKernel, RopeBlocks(tokens), kRopeThreads, 0, Data<float>(cos_sin), tokens,
                angles, TurnsOf(pairs, first, count, base, {.freq_scale = freq_scale}));
  });
}

/// The slot `my_llm_ffi.rope_rotate.cuda`.
void RopeRotateCuda(TensorView x, TensorView cos_sin, bool interleaved) {
  if (x.numel() == 0 || cos_sin.numel() == 0) return;
  const CudaCall call("rope_rotate", {{"x", x}, {"cos_sin", cos_sin}});
  const int64_t tokens = x.size(0), pairs = cos_sin.size(2);
  ForPairs(pairs, [&](int64_t first, int count) {
    const Heads<float> heads{Data<float>(x), nullptr, static_cast<int>(x.size(1)), 0, x.size(2),
                             pairs,          first};
    DispatchPairs(heads, interleaved, [&]<int kN, bool kInterleaved>() {
      call.Launch(RopeRotateKernel<kN, kInterleaved>, RopeBlocks(tokens), kRopeThreads, 0, heads,
                  tokens, count, Data<const float>(cos_sin));
    });
  });
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.rope.cuda", RopeCuda);
  RegisterCudaKernel("my_llm_ffi.rope_angles.cuda", RopeAnglesCuda);
  RegisterCudaKernel("my_llm_ffi.rope_rotate.cuda", RopeRotateCuda);
}

}  // namespace
}  // namespace mlf
