// Normalisation over the last dimension: checks, CPU kernels, registration. Counterparts: norm.h,
// norm_simd.cc, norm.cu.
#include "kernels/norm.h"

#include <cmath>

#include "base/dtype.h"
#include "base/op.h"
#include "base/thread_pool.h"
#include "kernels/norm_simd.h"

namespace mlf {
namespace {

constexpr int64_t kGrain = 32768;  // elements per chunk: 4 us with AVX-512, above a wake-up

template <typename T>
struct Rows;
template <>
struct Rows<float> {
  static constexpr auto& kNorm = rms_norm_row_f32;
  static constexpr auto& kAddNorm = add_rms_norm_row_f32;
  static constexpr auto& kLayerNorm = layer_norm_row_f32;
};
template <>
struct Rows<F16> {
  static constexpr auto& kNorm = rms_norm_row_f16;
  static constexpr auto& kAddNorm = add_rms_norm_row_f16;
  static constexpr auto& kLayerNorm = layer_norm_row_f16;
};
template <>
struct Rows<BF16> {
  static constexpr auto& kNorm = rms_norm_row_bf16;
  static constexpr auto& kAddNorm = add_rms_norm_row_bf16;
  static constexpr auto& kLayerNorm = layer_norm_row_bf16;
};

/// Whether the rows of `out` are to be streamed.
bool Streams(const TensorView& out, const TensorView& x) {
  const int64_t value = DtypeBytes(x.dtype());
  return WorthStreaming(Data<void>(out), Data<void>(x), x.numel() * value,
                        x.size(x.ndim() - 1) * value);
}

/// Calls fn(t) for every row of x, whatever its rank.
template <typename Fn>
void ForRows(const TensorView& x, Fn fn) {
  const int64_t hidden = x.size(x.ndim() - 1);
  if (hidden == 0) return;
  ParallelFor(x.numel() / hidden, std::max<int64_t>(1, kGrain / hidden),
              [&](int64_t begin, int64_t end) {
                for (int64_t t = begin; t < end; ++t) fn(t * hidden, hidden);
              });
}

void RmsNormCpu(TensorView out, TensorView x, TensorView weight, double eps) {
  const bool stream = Streams(out, x);
  DispatchFloat(x.dtype(), [&]<typename T>() {
    T* o = Data<T>(out);
    const T *i = Data<T>(x), *w = Data<T>(weight);
    ForRows(x, [&](int64_t row, int64_t hidden) {
      Rows<T>::kNorm({o + row, stream}, i + row, w, hidden, eps);
    });
  });
}

void AddRmsNormCpu(TensorView out, TensorView residual, TensorView x, TensorView weight,
                   double eps) {
  const bool stream = Streams(out, x);
  DispatchFloat(x.dtype(), [&]<typename T>() {
    T *o = Data<T>(out), *r = Data<T>(residual);
    const T *i = Data<T>(x), *w = Data<T>(weight);
    ForRows(x, [&](int64_t row, int64_t hidden) {
      Rows<T>::kAddNorm({o + row, stream}, r + row, i + row, w, hidden, eps);
    });
  });
}

void LayerNormCpu(TensorView out, TensorView x, TensorView weight, TensorView bias, double eps) {
  const bool stream = Streams(out, x);
  DispatchFloat(x.dtype(), [&]<typename T>() {
    T* o = Data<T>(out);
    const T *i = Data<T>(x), *w = Data<T>(weight), *b = Data<T>(bias);
    ForRows(x, [&](int64_t row, int64_t hidden) {
      Rows<T>::kLayerNorm({o + row, stream}, i + row, w, b, hidden, eps);
    });
  });
}

[[maybe_unused]] const bool kFilled = rms_norm_kernel.SetCpu(RmsNormCpu) &&
                                      add_rms_norm_kernel.SetCpu(AddRmsNormCpu) &&
                                      layer_norm_kernel.SetCpu(LayerNormCpu);

const Op kRmsNorm{
    "rms_norm",
    "(x: T['*batch hidden', 'f32 f16 bf16'], weight: T['hidden'], *, eps: float = 1e-06) -> "
    "T['*batch hidden', 'may be x']",
    R"(Root-mean-square normalisation of the last dimension.

``out[..., i] = x[..., i] * weight[i] / sqrt(mean(x**2) + eps)``, accumulated in float32 (Zhang and
Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467).

x: Activations; may have no rows.
weight: Gain of each element.
eps: Added to the mean square; positive and finite as float32.
)"};

const Op kAddRmsNorm{
    "add_rms_norm",
    "(x: T['*batch hidden', 'f32 f16 bf16'], residual: Mut['*batch hidden'], weight: T['hidden'], "
    "*, eps: float = 1e-06) -> T['*batch hidden', 'may be x']",
    R"(Adds to the residual stream, then root-mean-square normalisation of it.

``residual += x``, rounded to its dtype, then ``out = rms_norm(residual, weight, eps)``: the end of
one layer and the begin of the next in one walk over memory.

x: What the layer adds; may have no rows.
residual: The stream, written in place.
weight: Gain of each element.
eps: Added to the mean square; positive and finite as float32.
)"};

const Op kLayerNorm{
    "layer_norm",
    "(x: T['*batch hidden', 'f32 f16 bf16'], weight: T['hidden'], bias: T['hidden'] | None = None, "
    "*, eps: float = 1e-05) -> T['*batch hidden', 'may be x']",
    R"(Layer normalisation of the last dimension.

``out = (x - mean(x)) / sqrt(mean((x - mean(x))**2) + eps) * weight + bias``, computed in float32
(Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450).

x: Activations; may have no rows.
weight: Gain of each element.
bias: Added to each element.
eps: Added to the variance; positive and finite as float32.
)"};

void CheckEps(const Op& op, double eps) {
  const float eps32 = static_cast<float>(eps);  // what a CUDA kernel computes with
  op.That(eps32 > 0 && std::isfinite(eps32), "eps must be a positive float32, got ", eps);
}

void RmsNorm(TensorView x, TensorView weight, TensorView out, double eps) {
  CheckEps(kRmsNorm.Check(x, weight, out), eps);
  if (x.numel() != 0) rms_norm_kernel(x.device(), out, x, weight, eps);
}

void AddRmsNorm(TensorView x, TensorView residual, TensorView weight, TensorView out, double eps) {
  CheckEps(kAddRmsNorm.Check(x, residual, weight, out), eps);
  if (x.numel() != 0) add_rms_norm_kernel(x.device(), out, residual, x, weight, eps);
}

void LayerNorm(TensorView x, TensorView weight, ffi::Optional<TensorView> bias, TensorView out,
               double eps) {
  CheckEps(kLayerNorm.Check(x, weight, bias, out), eps);
  if (x.numel() == 0) return;
  layer_norm_kernel(x.device(), out, x, weight, bias.value_or(ArrayView()), eps);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  kRmsNorm.Register(RmsNorm);
  kAddRmsNorm.Register(AddRmsNorm);
  kLayerNorm.Register(LayerNorm);
}

}  // namespace
}  // namespace mlf
