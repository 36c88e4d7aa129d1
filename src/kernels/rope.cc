// Rotary position embedding: op, CPU kernels, registration. Counterparts: rope.h, rope_simd.cc.
#include "kernels/rope.h"

#include <cmath>
#include <vector>

#include "base/op.h"
#include "base/thread_pool.h"
#include "kernels/rope_launch.h"
#include "kernels/rope_simd.h"
#include "kernels/row_parameters.h"

namespace mlf {
namespace {

constexpr int64_t kAngleGrain = 4096;    // pairs per chunk: 3 us of sines and cosines
constexpr int64_t kRotateGrain = 32768;  // elements per chunk: 3 us with AVX-512
constexpr int64_t kPairCost = kRotateGrain / kAngleGrain;

template <typename T>
struct Heads;
template <>
struct Heads<float> {
  static constexpr auto& kNeox = rope_neox_head_f32;
  static constexpr auto& kInterleaved = rope_interleaved_head_f32;
};
template <>
struct Heads<F16> {
  static constexpr auto& kNeox = rope_neox_head_f16;
  static constexpr auto& kInterleaved = rope_interleaved_head_f16;
};
template <>
struct Heads<BF16> {
  static constexpr auto& kNeox = rope_neox_head_bf16;
  static constexpr auto& kInterleaved = rope_interleaved_head_bf16;
};

/// Turns of each pair at position 1.
std::vector<double> Turns(int64_t pairs, const float* factors, double base,
                          const RopeScaling& scaling) {
  // Of the last call on this thread: all layers of a model have the same, at a pow() a pair.
  thread_local struct {
    double base = 0;
    RopeScaling scaling;
    std::vector<double> turns;
  } kept;
  const auto wanted = static_cast<size_t>(pairs);
  if (kept.base != base || kept.scaling != scaling || kept.turns.size() != wanted) {
    std::vector<double> turns(wanted);
    for (int64_t i = 0; i < pairs; ++i) turns[i] = RopeTurn(i, pairs, base, scaling);
    kept = {base, scaling, std::move(turns)};
  }
  std::vector<double> out = kept.turns;
  for (int64_t i = 0; factors != nullptr && i < pairs; ++i) out[i] /= factors[i];
  return out;
}

void RopeAnglesCpu(TensorView cos_sin, TensorView positions, TensorView freq_factors, double base,
                   double freq_scale) {
  const int64_t tokens = cos_sin.size(0), pairs = cos_sin.size(2);
  if (tokens == 0 || pairs == 0) return;
  const std::vector<double> turns =
      Turns(pairs, Data<const float>(freq_factors), base, {.freq_scale = freq_scale});
  float* out = Data<float>(cos_sin);
  const int32_t* position = Data<const int32_t>(positions);
  ParallelFor(tokens, std::max<int64_t>(1, kAngleGrain / pairs), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* cos = out + 2 * t * pairs;
      rope_angles_row(cos, cos + pairs, position[t], turns.data(), pairs, 1);
    }
  });
}

/// Rotates all heads of one token.
template <typename T>
void RotateHeads(T* x, int64_t heads, int64_t head_dim, const float* cos, const float* sin,
                 int64_t pairs, bool interleaved) {
  const auto rotate = interleaved ? Heads<T>::kInterleaved : Heads<T>::kNeox;
  for (int64_t h = 0; h < heads; ++h) rotate(x + h * head_dim, cos, sin, pairs);
}

void RopeRotateCpu(TensorView x, TensorView cos_sin, bool interleaved) {
  const int64_t tokens = x.size(0), heads = x.size(1), head_dim = x.size(2),
                pairs = cos_sin.size(2), row = heads * head_dim;
  if (row == 0 || pairs == 0) return;
  float* data = Data<float>(x);
  const float* angles = Data<const float>(cos_sin);
  ParallelFor(tokens, std::max<int64_t>(1, kRotateGrain / row), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cos = angles + 2 * t * pairs;
      RotateHeads(data + t * row, heads, head_dim, cos, cos + pairs, pairs, interleaved);
    }
  });
}

template <typename T>
void RotateTokens(const TensorView& q, const TensorView& k, const TensorView& positions,
                  const std::vector<double>& turns, float magnitude, bool interleaved) {
  const int64_t head_dim = q.size(2), q_heads = q.size(1), k_heads = k.size(1),
                row = (q_heads + k_heads) * head_dim, pairs = static_cast<int64_t>(turns.size());
  T *queries = Data<T>(q), *keys = Data<T>(k);
  const bool wide = positions.dtype() == kI64;
  const int64_t* position64 = Data<const int64_t>(positions);
  const int32_t* position32 = Data<const int32_t>(positions);
  const int64_t cost = row + kPairCost * pairs;
  ParallelFor(q.size(0), std::max<int64_t>(1, kRotateGrain / cost),
              [&](int64_t begin, int64_t end) {
                std::vector<float> angles(2 * pairs);
                float *cos = angles.data(), *sin = cos + pairs;
                for (int64_t t = begin; t < end; ++t) {
                  const double position = static_cast<double>(wide ? position64[t] : position32[t]);
                  rope_angles_row(cos, sin, position, turns.data(), pairs, magnitude);
                  RotateHeads(queries + t * q_heads * head_dim, q_heads, head_dim, cos, sin, pairs,
                              interleaved);
                  RotateHeads(keys + t * k_heads * head_dim, k_heads, head_dim, cos, sin, pairs,
                              interleaved);
                }
              });
}

void RopeCpu(TensorView q, TensorView k, TensorView positions, TensorView freq_factors,
             int64_t rotary_dims, bool interleaved, double base, double freq_scale, double ramp_low,
             double ramp_high, double magnitude) {
  const std::vector<double> turns =
      Turns(rotary_dims / 2, Data<const float>(freq_factors), base,
            {.freq_scale = freq_scale, .ramp_low = ramp_low, .ramp_high = ramp_high});
  DispatchFloat(q.dtype(), [&]<typename T>() {
    RotateTokens<T>(q, k, positions, turns, static_cast<float>(magnitude), interleaved);
  });
}

[[maybe_unused]] const bool kFilled = rope_angles_kernel.SetCpu(RopeAnglesCpu) &&
                                      rope_rotate_kernel.SetCpu(RopeRotateCpu) &&
                                      rope_kernel.SetCpu(RopeCpu);

const Op kRope{
    "rope",
    "(q: Mut['tokens heads head_dim', 'f32 f16 bf16'], k: Mut['tokens key_heads head_dim'], "
    "positions: T['tokens', 'i32 i64'], "
    "freq_factors: T['pairs', 'f32'] | None = None, *, rotary_dims: int | None = None, "
    "interleaved: bool = False, base: float = 10000.0, "
    "scaling: Literal['none', 'linear', 'yarn'] = 'none', factor: float = 1.0, "
    "original_context: int | None = None, beta_fast: float = 32.0, beta_slow: float = 1.0, "
    "attention_factor: float | None = None) -> None",
    R"(Rotary position embedding of queries and keys, in place.

Pair ``i`` of every head turns by ``position * f[i]``, ``f[i] = base**(-2 * i / rotary_dims)`` (Su
et al., "RoFormer", arXiv:2104.09864). It is ``(x[i], x[i + rotary_dims / 2])``, as GPT-NeoX and
Hugging Face's Llama have it, or ``(x[2 * i], x[2 * i + 1])`` when ``interleaved``. Angles are
reduced in float64, the rotation is float32, rounded once.

``scaling='linear'`` divides every frequency by ``factor`` (position interpolation, Chen et al.,
arXiv:2306.15595). ``scaling='yarn'`` does so for pairs that turn less than ``beta_slow`` times in
``original_context`` positions, keeps those that turn more than ``beta_fast`` times, and goes
linearly from one to the other between: over the pair indices ``floor(c(beta_fast))`` to
``ceil(c(beta_slow))``, ``c(b) = rotary_dims * log(original_context / (2 * pi * b)) / (2 *
log(base))``, held within 0 and ``rotary_dims - 1`` (Peng et al., "YaRN", arXiv:2309.00071; the
indices and their rounding as Hugging Face transformers and llama.cpp have them).

q: Queries of each token.
k: Keys of each token.
positions: Position of each token; may be negative.
freq_factors: Divides the frequency of each pair, ``rotary_dims / 2`` of them (Llama 3.1, LongRoPE).
rotary_dims: Dimensions of a head that turn, its first ones; even; ``None`` is all.
interleaved: Whether a pair is two neighbours.
base: Greater than 1.
scaling: How frequencies are scaled for contexts longer than the model was trained with.
factor: Positive; longer context over original one; 1 with ``scaling='none'``.
original_context: Context the model was trained with; with ``scaling='yarn'``, and only there.
beta_fast: Turns from which a pair keeps its frequency.
beta_slow: Turns up to which a frequency is divided by ``factor``; positive, at most ``beta_fast``.
attention_factor: Multiplies sine and cosine; positive; ``None`` is ``0.1 * log(factor) + 1`` for
    yarn with a factor above 1, else 1.
)"};

struct Scaling : RopeScaling {
  double magnitude = 1;
};

struct ScalingArguments {
  int choice;  // none, linear, yarn
  double factor;
  ffi::Optional<int64_t> original_context;
  double beta_fast, beta_slow;
  ffi::Optional<double> attention_factor;
};

bool IsPositive(double x) {  // as the float32 that a kernel may compute with
  return static_cast<float>(x) > 0 && std::isfinite(static_cast<float>(x));
}

/// Pairs from `low` to `high`, the ramp of YaRN.
void SetYarnRamp(Scaling& scaling, const ScalingArguments& a, double rotary_dims, double base) {
  const auto pair_of = [&](double turns) {
    const double context = static_cast<double>(*a.original_context);
    return rotary_dims * std::log(context / (2 * M_PI * turns)) / (2 * std::log(base));
  };
  scaling.ramp_low = std::max(0.0, std::floor(pair_of(a.beta_fast)));
  scaling.ramp_high = std::min(rotary_dims - 1, std::ceil(pair_of(a.beta_slow)));
}

Scaling CheckScaling(const ScalingArguments& a, int64_t rotary_dims, double base) {
  const bool yarn = a.choice == 2, has_context = a.original_context.has_value();
  kRope.That(IsPositive(a.factor), "factor must be a positive float32, got ", a.factor)
      .That(a.choice != 0 || a.factor == 1, "factor is ", a.factor,
            ", but scaling='none' has no use for it: expected 1")
      .That(yarn || !has_context, "original_context belongs to scaling='yarn' alone")
      .That(!yarn || has_context, "scaling='yarn' needs original_context")
      .That(!has_context || *a.original_context > 0, "original_context must be positive, got ",
            a.original_context.value_or(0))
      .That(IsPositive(a.beta_slow) && IsPositive(a.beta_fast) && a.beta_slow <= a.beta_fast,
            "expected 0 < beta_slow <= beta_fast, got ", a.beta_slow, " and ", a.beta_fast)
      .That(!a.attention_factor.has_value() || IsPositive(*a.attention_factor),
            "attention_factor must be a positive float32, got ", a.attention_factor.value_or(0));
  Scaling scaling{{.freq_scale = 1 / a.factor}};
  if (yarn) SetYarnRamp(scaling, a, static_cast<double>(rotary_dims), base);
  const double by_itself = yarn && a.factor > 1 ? 0.1 * std::log(a.factor) + 1 : 1;
  scaling.magnitude = a.attention_factor.value_or(by_itself);
  return scaling;
}

void Rope(TensorView q, TensorView k, TensorView positions, ffi::Optional<TensorView> freq_factors,
          ffi::Optional<int64_t> rotary_dims, bool interleaved, double base, ffi::String scaling,
          double factor, ffi::Optional<int64_t> original_context, double beta_fast,
          double beta_slow, ffi::Optional<double> attention_factor) {
  kRope.Check(q, k, positions, freq_factors);
  const int64_t head_dim = q.size(2), rotary = rotary_dims.value_or(head_dim);
  kRope
      .That(rotary > 0 && rotary % 2 == 0 && rotary <= head_dim,
            rotary_dims.has_value() ? "rotary_dims" : "the head dimension",
            " must be even and from 2 to ", head_dim, " (the size of a head of q), got ", rotary)
      .That(!freq_factors.has_value() || (*freq_factors).size(0) == rotary / 2,
            "freq_factors has shape [", freq_factors.has_value() ? (*freq_factors).size(0) : 0,
            "], expected [", rotary / 2, "] (half of the dimensions that turn)")
      .That(base > 1 && IsPositive(base), "base must be a float32 above 1, got ", base);
  CheckValues<float>(
      kRope, "freq_factors", freq_factors, [](float f) { return f > 0 && std::isfinite(f); },
      "a finite number above 0");
  const Scaling s = CheckScaling({kRope.Choice("scaling", scaling), factor, original_context,
                                  beta_fast, beta_slow, attention_factor},
                                 rotary, base);
  if (positions.numel() == 0) return;
  rope_kernel(q.device(), q, k, positions, freq_factors.value_or(ArrayView()), rotary, interleaved,
              base, s.freq_scale, s.ramp_low, s.ramp_high, s.magnitude);
}

TVM_FFI_STATIC_INIT_BLOCK() { kRope.Register(Rope); }

}  // namespace
}  // namespace mlf
