// Gated activations: ops, CPU kernels, registration. Counterparts: activation.h,
// activation_simd.cc.
#include "kernels/activation.h"

#include "base/dtype.h"
#include "base/op.h"
#include "base/thread_pool.h"
#include "kernels/activation_simd.h"

namespace mlf {
namespace {

constexpr int64_t kGrain = 16384;  // elements per chunk: 4 us with AVX-512

template <typename T>
constexpr auto& kRow = activation_mul_row_f32;
template <>
constexpr auto& kRow<F16> = activation_mul_row_f16;
template <>
constexpr auto& kRow<BF16> = activation_mul_row_bf16;

void ActivationMulCpu(const TensorView& out, const TensorView& gate, const TensorView& up,
                      Activation activation) {
  DispatchFloat(out.dtype(), [&]<typename T>() {
    T* o = Data<T>(out);
    const T *g = Data<const T>(gate), *u = Data<const T>(up);
    const int64_t bytes = out.numel() * static_cast<int64_t>(sizeof(T));
    // Chunks begin at lines, and one that replaces `up` is of no use to stream either.
    const bool stream = o != u && WorthStreaming(o, g, bytes, kGrain);
    ParallelFor(out.numel(), kGrain, [&](int64_t begin, int64_t end) {
      kRow<T>({o + begin, stream}, g + begin, u + begin, end - begin, activation);
    });
  });
}

void SiluMulCpu(TensorView out, TensorView gate, TensorView up) {
  ActivationMulCpu(out, gate, up, Activation::kSilu);
}

void GeluMulCpu(TensorView out, TensorView gate, TensorView up, bool approximate) {
  ActivationMulCpu(out, gate, up, approximate ? Activation::kGeluTanh : Activation::kGelu);
}

[[maybe_unused]] const bool kFilled =
    silu_mul_kernel.SetCpu(SiluMulCpu) && gelu_mul_kernel.SetCpu(GeluMulCpu);

const Op kSiluMul{"silu_mul",
                  "(gate: T['*batch hidden', 'f32 f16 bf16'], up: T['*batch hidden']) -> T['*batch "
                  "hidden', 'may be gate up']",
                  R"(SiLU of the gate times up: the gated activation of a SwiGLU layer.

``out = gate / (1 + exp(-gate)) * up``, computed in float32 and rounded once (Shazeer, "GLU Variants
Improve Transformer", arXiv:2002.05202). A gate of ``-inf`` counts as its limit, 0.

gate: What goes through the activation.
up: What it is multiplied with.
)"};

const Op kGeluMul{"gelu_mul",
                  "(gate: T['*batch hidden', 'f32 f16 bf16'], up: T['*batch hidden'], *, "
                  "approximate: Literal['none', 'tanh'] = "
                  "'none') -> T['*batch hidden', 'may be gate up']",
                  R"(GELU of the gate times up: the gated activation of a GeGLU layer.

``out = gate * (1 + erf(gate / sqrt(2))) / 2 * up``, or, with ``approximate='tanh'``, ``out = gate *
(1 + tanh(sqrt(2 / pi) * (gate + 0.044715 * gate**3))) / 2 * up``, computed in float32 without the
cancellation of these formulas at negative gates, and rounded once (Hendrycks and Gimpel, "Gaussian
Error Linear Units", arXiv:1606.08415). A gate of ``-inf`` counts as its limit, 0.

gate: What goes through the activation.
up: What it is multiplied with.
approximate: Which of the two formulas.
)"};

void SiluMul(TensorView gate, TensorView up, TensorView out) {
  kSiluMul.Check(gate, up, out);
  if (out.numel() != 0) silu_mul_kernel(out.device(), out, gate, up);
}

void GeluMul(TensorView gate, TensorView up, TensorView out, ffi::String approximate) {
  const bool by_tanh = kGeluMul.Check(gate, up, out).Choice("approximate", approximate) == 1;
  if (out.numel() != 0) gelu_mul_kernel(out.device(), out, gate, up, by_tanh);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  kSiluMul.Register(SiluMul);
  kGeluMul.Register(GeluMul);
}

}  // namespace
}  // namespace mlf
