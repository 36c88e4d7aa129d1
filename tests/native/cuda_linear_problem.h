// One product for the tests of linear on CUDA: operands that end where their memory ends, and the
// exact result. Counterparts: cuda_linear_test.cc, cuda_linear_cublas_test.cc.
#pragma once
#include <random>

#include "check.h"
#include "cuda_array.h"
#include "kernels/linear.h"
#include "random_weight.h"

namespace mlf {

/// Rows in the file's layout: random bytes under scales (and minima) of a sane size, or normal
/// deviates.
inline std::vector<uint8_t> RandomWeight(Format format, int64_t rows, int64_t cols, int seed) {
  std::mt19937 rng(seed);
  std::vector<uint8_t> weight(rows * RowBytes(format, cols));
  const int64_t size = InfoOf(format).block_bytes;
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<uint8_t>(rng());
  for (size_t i = 0; i < weight.size(); i += size) {
    if (InfoOf(format).block == 1) {
      const float value = normal(rng);
      const uint16_t half = format == Format::kF16 ? F16::From(value).bits : BF16::From(value).bits;
      std::memcpy(&weight[i], size == 4 ? static_cast<const void*>(&value) : &half, size);
      continue;
    }
    for (int64_t at : HalfOffsets(format)) {
      const float scale = 0.001f + static_cast<float>(rng() % 1000) * 1e-5f;
      const uint16_t half = static_cast<uint16_t>(F16::From(scale).bits | rng() % 2 << 15);
      std::memcpy(&weight[i + at], &half, 2);
    }
    if (format == Format::kMXFP4) weight[i] = static_cast<uint8_t>(110 + rng() % 20);
  }
  return weight;
}

/// `out` as X, the dtype of x; `shift` bytes are left out before the weight.
template <typename X, typename Out = X>
struct CudaProduct {
  Format format;
  int64_t rows, cols, tokens;
  std::vector<uint8_t> weight;
  int64_t shift;
  OwnedArray<X> x;
  OwnedArray<Out> bias;

  CudaProduct(Format f, int64_t n, int64_t k, int64_t t, int64_t shift_bytes = 0)
      : format(f),
        rows(n),
        cols(k),
        tokens(t),
        weight(RandomWeight(f, n, k, static_cast<int>(n + k))),
        shift(shift_bytes),
        x(OnCuda(RandomArray<X>({t, k}, 7 * n + t))),
        bias(OnCuda(RandomArray<Out>({n}, n))) {
    weight.insert(weight.begin(), shift, 0xEE);
    weight.shrink_to_fit();
  }

  ArrayView Weight() const {
    return ArrayView(const_cast<uint8_t*>(weight.data()) + shift, kU8,
                     {rows, RowBytes(format, cols)}, kCuda);
  }

  /// Outputs of tokens [begin, end).
  OwnedArray<Out> Run(bool with_bias, int64_t begin, int64_t end) const {
    auto out = CudaOutput<Out>({end - begin, rows});
    const ArrayView part(const_cast<X*>(x.data.data()) + begin * cols, x.view.dtype(),
                         {end - begin, cols}, kCuda),
        none(nullptr, DtypeOf<Out>(), {0}, kCuda);
    linear_kernel(kCuda, out, part, Weight(), with_bias ? bias.view : none,
                  static_cast<int64_t>(format), cols);
    return out;
  }
  OwnedArray<Out> Run(bool with_bias) const { return Run(with_bias, 0, tokens); }

  std::vector<float> Dequantized() const {
    std::vector<float> w(rows * cols);
    for (int64_t r = 0; cols > 0 && r < rows; ++r) {
      InfoOf(format).dequantize_row(weight.data() + shift + r * RowBytes(format, cols),
                                    w.data() + r * cols, cols);
    }
    return w;
  }

  /// Every output is within `error` of the sum of magnitudes, and one rounding, of the exact one.
  void ExpectNear(const OwnedArray<Out>& out, bool with_bias, double error) const {
    const double rounding = std::is_same_v<Out, float> ? 0x1p-24
                            : std::is_same_v<Out, F16> ? 0x1p-11
                                                       : 0x1p-8;
    const std::vector<float> w = Dequantized();
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        double y = with_bias ? bias.At(r) : 0, magnitude = std::abs(y);
        for (int64_t k = 0; k < cols; ++k) {
          const double term = double{w[r * cols + k]} * x.At(t * cols + k);
          y += term;
          magnitude += std::abs(term);
        }
        MLF_EXPECT(std::abs(out.At(t * rows + r) - y) <=
                   error * magnitude + rounding * std::abs(y) + 1e-7);
      }
    }
  }
};

}  // namespace mlf
