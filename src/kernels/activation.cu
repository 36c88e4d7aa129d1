// Gated activations on CUDA. Counterparts: activation.h, activation.cc.
#include "base/normal_tail.h"
#include "kernels/activation.h"
#include "kernels/cuda_elements.cuh"

namespace mlf {
namespace {

// As on the CPU (activation_simd.cc): each is its limit, not NaN, at −inf, and 0 where the result
// is below 1e-35. Divisions are by at most 2^126, where the fast one is good to 2 ulp.

/// x, or `least` where x is below it; NaN stays NaN.
__device__ inline float AtLeast(float least, float x) { return x < least ? least : x; }

/// x / (1 + e^−x).
struct Silu {
  __device__ float operator()(float x) const {
    constexpr float kLeast = -87.f;
    const float bounded = AtLeast(kLeast, x);
    const float y = __fdividef(bounded, 1.f + exp2f(bounded * -1.442695041f));
    return x < kLeast ? 0.f : y;
  }
};

/// x Φ(x), which is x − x Φ(−x) where x is positive.
struct Gelu {
  __device__ float operator()(float x) const {
    constexpr float kMost = 13.2f;
    const float magnitude = fabsf(x), z = magnitude > kMost ? kMost : magnitude;
    const float inverse = __fdividef(1.f, z + 3.5f), q = (z - 3.5f) * inverse;
    float poly = NormalTailCoefficient(0);
#pragma unroll
    for (int i = 1; i < kNormalTailTerms; ++i) poly = fmaf(poly, q, NormalTailCoefficient(i));
    const float tail = exp2f(z * z * -7.213475204e-1f) * (poly * inverse);
    return x < -kMost ? 0.f : AtLeast(0.f, x) - z * tail;
  }
};

/// x (1 + tanh u) / 2 with u = sqrt(2/π) (x + 0.044715 x³), as x / (1 + e^−2u).
struct GeluTanh {
  __device__ float operator()(float x) const {
    constexpr float kLeast = -10.f;
    const float bounded = AtLeast(kLeast, x);
    // −2u / x / ln 2: at −10 the exponent is 126.
    const float slope = fmaf(bounded * bounded, -1.029432396e-1f, -2.302208198f);
    const float y = __fdividef(bounded, 1.f + exp2f(bounded * slope));
    return x < kLeast ? 0.f : y;
  }
};

template <typename Activation>
struct Gated {
  template <typename T>
  __device__ T operator()(T gate, T up) const {
    return FromFloat<T>(Activation()(static_cast<float>(gate)) * static_cast<float>(up));
  }
};

template <typename Activation>
void Launch(const char* name, const TensorView& out, const TensorView& gate, const TensorView& up) {
  const CudaCall call(name, {{"gate", gate}, {"up", up}, {"out", out}});
  DispatchFloat(out.dtype(), [&]<typename T>() {
    LaunchElements<Gated<Activation>>(call, Data<T>(out), Data<const T>(gate), Data<const T>(up),
                                      out.numel());
  });
}

void SiluMulCuda(TensorView out, TensorView gate, TensorView up) {
  Launch<Silu>("silu_mul", out, gate, up);
}

void GeluMulCuda(TensorView out, TensorView gate, TensorView up, bool approximate) {
  const auto launch = approximate ? Launch<GeluTanh> : Launch<Gelu>;
  launch("gelu_mul", out, gate, up);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.silu_mul.cuda", SiluMulCuda);
  RegisterCudaKernel("my_llm_ffi.gelu_mul.cuda", GeluMulCuda);
}

}  // namespace
}  // namespace mlf
