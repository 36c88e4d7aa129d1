// Rotary position embedding on the CPU. Counterparts: rope.h, rope_simd.cc.
#include "kernels/rope.h"

#include <cmath>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/rope_simd.h"

namespace mlf {
namespace {

constexpr int64_t kAngleGrain = 512;     // pairs per chunk: 5 us of sines and cosines
constexpr int64_t kRotateGrain = 32768;  // elements per chunk: 3 us with AVX-512

/// Angle of each pair at position 1.
std::vector<double> Frequencies(int64_t pairs, const float* factors, double base, double scale) {
  std::vector<double> out(pairs);
  for (int64_t i = 0; i < pairs; ++i) {
    out[i] = scale * std::pow(base, -static_cast<double>(i) / static_cast<double>(pairs));
    if (factors != nullptr) out[i] /= factors[i];
  }
  return out;
}

void RopeAnglesCpu(TensorView cos_sin, TensorView positions, TensorView freq_factors, double base,
                   double freq_scale) {
  const int64_t tokens = cos_sin.size(0), pairs = cos_sin.size(2);
  if (tokens == 0 || pairs == 0) return;
  const std::vector<double> frequency =
      Frequencies(pairs, Data<const float>(freq_factors), base, freq_scale);
  float* out = Data<float>(cos_sin);
  const int32_t* position = Data<const int32_t>(positions);
  ParallelFor(tokens, std::max<int64_t>(1, kAngleGrain / pairs), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float *cos = out + 2 * t * pairs, *sin = cos + pairs;
      for (int64_t i = 0; i < pairs; ++i) {
        const double angle = position[t] * frequency[i];
        cos[i] = static_cast<float>(std::cos(angle));
        sin[i] = static_cast<float>(std::sin(angle));
      }
    }
  });
}

void RopeCpu(TensorView x, TensorView cos_sin, bool interleaved) {
  const int64_t tokens = x.size(0), heads = x.size(1), head_dim = x.size(2),
                pairs = cos_sin.size(2), row = heads * head_dim;
  if (row == 0 || pairs == 0) return;
  float* data = Data<float>(x);
  const float* angles = Data<const float>(cos_sin);
  const auto rotate = interleaved ? rope_interleaved_head : rope_neox_head;
  ParallelFor(tokens, std::max<int64_t>(1, kRotateGrain / row), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float *cos = angles + 2 * t * pairs, *sin = cos + pairs;
      for (int64_t h = 0; h < heads; ++h) rotate(data + t * row + h * head_dim, cos, sin, pairs);
    }
  });
}

[[maybe_unused]] const bool kFilled =
    rope_angles_kernel.SetCpu(RopeAnglesCpu) && rope_kernel.SetCpu(RopeCpu);

}  // namespace
}  // namespace mlf
