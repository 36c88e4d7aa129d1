// Packing, quantization, matmul and lookup against float64, at every CPU level of this machine.
// Counterparts: src/kernels/linear.cc, linear_simd.cc, pack_weight.cc,
// quantize_simd.cc, embedding_lookup.cc. Other dtypes: weight_dtypes_test.cc.
#include "kernels/linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "cpu_levels.h"
#include "kernels/linear_simd.h"
#include "random_weight.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr int64_t kRowCounts[] = {1, 15, 16, 17, 33, 172};

enum class Fill { kRandom, kLargest, kSmallest, kZeroScale, kSubnormalScale };

uint16_t RandomScale(std::mt19937& rng, Fill fill) {
  const uint16_t sign = rng() % 2 << 15;
  if (fill == Fill::kZeroScale) return sign;
  if (fill == Fill::kSubnormalScale) return sign | static_cast<uint16_t>(1 + rng() % 0x3FF);
  return sign | F16::From(0.001f + static_cast<float>(rng() % 1000) * 1e-5f).bits;
}

/// Of MXFP4: the smallest ones are subnormal.
uint8_t RandomExponent(std::mt19937& rng, Fill fill) {
  if (fill == Fill::kZeroScale) return 0;
  return fill == Fill::kSubnormalScale ? 1 : 110 + rng() % 20;
}

void FillFloats(std::vector<uint8_t>& weight, Format format, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  const int64_t size = InfoOf(format).block_bytes;
  for (size_t i = 0; i < weight.size(); i += size) {
    const float value = normal(rng);
    const uint16_t half = format == Format::kF16 ? F16::From(value).bits : BF16::From(value).bits;
    std::memcpy(&weight[i], size == 4 ? static_cast<const void*>(&value) : &half, size);
  }
}

/// Weights in the file's layout: random bytes under scales (and minima) of a sane size.
std::vector<uint8_t> MakeWeight(Format format, int64_t rows, int64_t cols, Fill fill, int seed) {
  std::mt19937 rng(seed);
  std::vector<uint8_t> weight(rows * RowBytes(format, cols));
  if (InfoOf(format).block == 1) {
    FillFloats(weight, format, rng);
    return weight;
  }
  const int byte = fill == Fill::kLargest    ? (format == Format::kQ8_0 ? 0x7F : 0xFF)
                   : fill == Fill::kSmallest ? (format == Format::kQ8_0 ? 0x80 : 0x00)
                                             : -1;
  for (uint8_t& b : weight) b = byte < 0 ? rng() : byte;
  for (size_t i = 0; i < weight.size(); i += InfoOf(format).block_bytes) {
    for (int64_t half : HalfOffsets(format)) {
      const uint16_t scale = RandomScale(rng, fill);
      std::memcpy(&weight[i + half], &scale, 2);
    }
    if (format == Format::kMXFP4) weight[i] = RandomExponent(rng, fill);
  }
  return weight;
}

std::vector<float> MakeActivations(int64_t tokens, int64_t cols, int seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(tokens * cols);
  for (float& v : x) v = normal(rng);
  return x;
}

ArrayView BytesView(const std::vector<uint8_t>& v) {
  return ArrayView(const_cast<uint8_t*>(v.data()), kU8, {static_cast<int64_t>(v.size())});
}

/// What an ActivationBlock stands for.
struct Rounded {
  int32_t n[32], sum;
  float scale, scaled_sum;
  int32_t half_sum;
};

template <int kPlanes>
Rounded Unpack(const uint8_t* bytes) {
  ActivationBlock<kPlanes> block;
  std::memcpy(&block, bytes, sizeof block);
  Rounded rounded{{}, block.sum, block.scale, block.scaled_sum, block.half_sum};
  for (int i = 0; i < 32; ++i) {
    for (int p = 0; p < kPlanes; ++p) rounded.n[i] = 256 * rounded.n[i] + block.q[p][i];
  }
  return rounded;
}

/// One matmul's operands in both layouts.
struct Problem {
  Format format;
  int64_t rows, cols, tokens;
  std::vector<uint8_t> weight, packed;
  std::vector<float> x, bias;
  std::vector<uint8_t> q;  // x as quantize_activations makes it

  Problem(Format f, int64_t n, int64_t k, int64_t t, Fill fill = Fill::kRandom)
      : format(f),
        rows(n),
        cols(k),
        tokens(t),
        weight(MakeWeight(f, n, k, fill, 1)),
        packed(PackedBytes(f, n, k), 0xEE),
        x(MakeActivations(t, k, 2)),
        bias(MakeActivations(1, n, 3)) {
    pack_weight_kernel(kCpu, BytesView(packed), FileView(), static_cast<int64_t>(f), k);
    Quantize();
  }

  ArrayView FileView() const {
    return ArrayView(const_cast<uint8_t*>(weight.data()), kU8, {rows, RowBytes(format, cols)});
  }

  int planes() const { return ActivationPlanes(format); }

  void Quantize() {
    if (planes() == 0) return;
    q.assign(tokens * QuantizedRowBytes(cols, planes()), 0xEE);
    quantize_activations_kernel(
        kCpu, ArrayView(q.data(), kU8, {tokens, QuantizedRowBytes(cols, planes())}),
        ArrayView(x.data(), kF32, {tokens, cols}), planes());
  }

  /// Outputs of tokens [begin, end).
  std::vector<float> Run(bool tiled, bool with_bias, int64_t begin, int64_t end) const {
    std::vector<float> out((end - begin) * rows, -1.f);
    const bool quantized = planes() > 0;
    const int64_t n = end - begin, row_bytes = QuantizedRowBytes(cols, planes());
    const uint8_t* data = quantized ? q.data() : reinterpret_cast<const uint8_t*>(x.data());
    uint8_t* from = const_cast<uint8_t*>(data) + begin * row_bytes;
    linear_kernel(
        kCpu, ArrayView(out.data(), kF32, {n, rows}),
        quantized ? ArrayView(from, kU8, {n, row_bytes}) : ArrayView(from, kF32, {n, cols}),
        tiled ? BytesView(packed) : FileView(),
        ArrayView(with_bias ? const_cast<float*>(bias.data()) : nullptr, kF32, {rows}),
        static_cast<int64_t>(format), cols);
    return out;
  }

  std::vector<float> Dequantized() const {
    std::vector<float> w(rows * cols);
    for (int64_t r = 0; r < rows; ++r) {
      InfoOf(format).dequantize_row(weight.data() + r * RowBytes(format, cols), &w[r * cols], cols);
    }
    return w;
  }

  /// Block `b` of the quantized activations, planes put together.
  Rounded Block(int64_t b) const {
    return planes() == 1 ? Unpack<1>(&q[b * sizeof(ActivationBlock<1>)])
                         : Unpack<2>(&q[b * sizeof(ActivationBlock<2>)]);
  }

  /// The activation that the matmul sees: what its rounded form stands for.
  double Activation(int64_t t, int64_t k) const {
    if (planes() == 0) return x[t * cols + k];
    const Rounded block = Block(t * cols / 32 + k / 32);
    return static_cast<double>(block.scale) * block.n[k % 32];
  }
};

bool SameBits(const float* a, const float* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}

/// float32 sums of exact blocks: off by a few parts in 10^7 of the sum of magnitudes.
void ExpectNearFloat64(const Problem& p, const std::vector<float>& out, bool with_bias) {
  const std::vector<float> w = p.Dequantized();
  for (int64_t t = 0; t < p.tokens; ++t) {
    for (int64_t r = 0; r < p.rows; ++r) {
      double y = with_bias ? p.bias[r] : 0, magnitude = std::fabs(y);
      for (int64_t k = 0; k < p.cols; ++k) {
        const double term = w[r * p.cols + k] * p.Activation(t, k);
        y += term;
        magnitude += std::fabs(term);
      }
      MLF_EXPECT(std::fabs(out[t * p.rows + r] - y) <= 2e-6 * magnitude);
    }
  }
}

void TestAgainstFloat64() {
  for (Format format : kAllFormats) {
    const bool blocks = ActivationPlanes(format) > 0;
    const int64_t unit = RowUnit(format);
    for (int64_t rows : kRowCounts) {
      for (int64_t cols : blocks ? std::vector<int64_t>{unit, 2 * unit, unit > 32 ? 3 * unit : 352}
                                 : std::vector<int64_t>{1, 3, 8, 21, 172}) {
        for (bool with_bias : {false, true}) {
          const Problem p(format, rows, cols, 5);
          const std::vector<float> tiled = p.Run(true, with_bias, 0, 5);
          ExpectNearFloat64(p, tiled, with_bias);
          const std::vector<float> file = p.Run(false, with_bias, 0, 5);
          MLF_EXPECT(SameBits(tiled.data(), file.data(), tiled.size()));
        }
      }
    }
  }
}

void TestExtremeWeights() {
  for (Format format : kAllFormats) {
    if (ActivationPlanes(format) == 0) continue;
    for (Fill fill : {Fill::kLargest, Fill::kSmallest, Fill::kZeroScale, Fill::kSubnormalScale}) {
      for (float sign : {1.f, -1.f}) {
        Problem p(format, 33, 3 * RowUnit(format), 9, fill);
        // All activations at ±127: where sums of pairs would overflow 16 bits, if they could.
        std::fill_n(p.x.begin(), 4 * p.cols, sign * 3.f);
        p.Quantize();
        const std::vector<float> tiled = p.Run(true, false, 0, 9), file = p.Run(false, false, 0, 9);
        ExpectNearFloat64(p, tiled, false);
        MLF_EXPECT(SameBits(tiled.data(), file.data(), tiled.size()));
      }
    }
  }
}

void TestBatchInvariance() {
  constexpr int64_t kTokens = 100, kRows = 172;
  for (Format format : kAllFormats) {
    const int64_t unit = RowUnit(format);
    const Problem p(format, kRows,
                    unit > 32                      ? 2 * unit
                    : ActivationPlanes(format) > 0 ? 352
                                                   : 171,
                    kTokens);
    const std::vector<float> whole = p.Run(true, true, 0, kTokens);
    for (int threads : {1, 2}) {
      ThreadLimit limit(threads);
      for (bool tiled : {true, false}) {
        for (int64_t n : {1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 33, 100}) {
          for (int64_t begin : {int64_t{0}, kTokens - n}) {
            const std::vector<float> part = p.Run(tiled, true, begin, begin + n);
            MLF_EXPECT(SameBits(part.data(), &whole[begin * kRows], part.size()));
          }
        }
      }
    }
  }
}

/// Long rows make several chunks of tokens.
void TestTokenChunks() {
  for (Format format : {Format::kQ8_0, Format::kF32, Format::kQ6_K, Format::kIQ2_XXS}) {
    const Problem p(format, 48, 12800, 65);
    const std::vector<float> whole = p.Run(true, false, 0, 65);
    for (int64_t t : {0, 31, 32, 64}) {
      const std::vector<float> one = p.Run(true, false, t, t + 1);
      MLF_EXPECT(SameBits(one.data(), &whole[t * 48], 48));
    }
  }
}

void TestPackUnpack() {
  for (Format format : kAllFormats) {
    for (int64_t rows : kRowCounts) {
      const int64_t cols = ActivationPlanes(format) > 0 ? 3 * RowUnit(format) : 37;
      const Problem p(format, rows, cols, 1);
      const std::vector<float> w = p.Dequantized();
      std::vector<int32_t> ids;
      for (int64_t r = 0; r < rows; ++r) ids.push_back(static_cast<int32_t>((r * 7 + 3) % rows));
      const int64_t n = rows;
      for (bool tiled : {true, false}) {
        std::vector<float> out(n * cols, -1.f);
        embedding_lookup_kernel(kCpu, ArrayView(out.data(), kF32, {n, cols}),
                                tiled ? BytesView(p.packed) : p.FileView(),
                                ArrayView(ids.data(), kI32, {n}), static_cast<int64_t>(format),
                                cols);
        for (int64_t i = 0; i < n; ++i) {
          MLF_EXPECT(SameBits(&out[i * cols], &w[ids[i] * cols], cols));
        }
      }
    }
  }
}

/// The tile of a format keeps every byte of the file, and nothing else but zeros for padding.
void TestTilesHoldTheBlocks() {
  for (Format format : kAllFormats) {
    const int64_t cols = ActivationPlanes(format) > 0 ? 2 * RowUnit(format) : 37;
    const Problem p(format, 17, cols, 1);
    MLF_EXPECT(static_cast<int64_t>(p.packed.size()) == 2 * 16 * RowBytes(format, cols));
    DispatchFormat(format, [&]<typename F>() {
      std::vector<uint8_t> expected(p.packed.size());
      for (int64_t r = 0; r < 17; ++r) {
        for (int64_t b = 0; b < cols / F::kWeights; ++b) {
          const uint8_t* block = &p.weight[r * RowBytes(format, cols) + b * F::kBytes];
          uint8_t* tile = &expected[(r / 16 * (cols / F::kWeights) + b) * kTileBytes<F>];
          uint8_t back[F::kBytes];
          F::Pack(block, tile, static_cast<int>(r % 16));
          F::Unpack(tile, static_cast<int>(r % 16), back);
          MLF_EXPECT(std::memcmp(block, back, F::kBytes) == 0);
        }
      }
      MLF_EXPECT(p.packed == expected);
    });
  }
}

/// The scale as Q8_0 stores it, where float16 has its full precision.
float StoredScale(float scale) {
  const bool fits = scale >= 0x1p-14f && scale <= 65504.f;
  return fits ? static_cast<float>(F16::From(scale)) : scale;
}

void TestQuantization(Format format, float largest) {
  constexpr int64_t kTokens = 7, kCols = 96;
  Problem p(format, 1, kCols, kTokens);
  for (int i = 0; i < 32; ++i) p.x[i] = 0;                                 // a block of zeros
  for (int i = 32; i < 64; ++i) p.x[i] = 1e-40f * i;                       // subnormal numbers
  for (int i = 64; i < 96; ++i) p.x[i] = (i % 2 ? 1 : -1) * 3e38f;         // the largest numbers
  for (int i = 0; i < 32; ++i) p.x[96 + i] = i == 0 ? largest : i + 0.5f;  // ties, scale 1
  for (int i = 0; i < 32; ++i) p.x[128 + i] = 1e-6f * i;  // a scale below float16's
  p.Quantize();
  for (int64_t b = 0; b < kTokens * kCols / 32; ++b) {
    const Rounded block = p.Block(b);
    const float* x = &p.x[b * 32];
    float most = 0;
    for (int i = 0; i < 32; ++i) most = std::max(most, std::fabs(x[i]));
    const float scale = most / largest;
    MLF_EXPECT(block.scale == (p.planes() == 1 ? StoredScale(scale) : scale));
    const float inverse = scale >= std::numeric_limits<float>::min() ? 1 / scale : 0;
    int32_t sum = 0;
    for (int i = 0; i < 32; ++i) {
      MLF_EXPECT(block.n[i] == std::nearbyint(x[i] * inverse));
      sum += block.n[i];
    }
    MLF_EXPECT(block.sum == sum);
    MLF_EXPECT(block.half_sum == std::accumulate(block.n, block.n + 16, 0));
    MLF_EXPECT(block.scaled_sum == block.scale * static_cast<float>(sum));
  }
}

/// A NaN or infinity makes its own row's outputs NaN or infinite, and no other's.
void TestNonFiniteActivations() {
  for (Format format : kAllFormats) {
    for (float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
          -std::numeric_limits<float>::infinity()}) {
      const int64_t cols = 2 * RowUnit(format);
      Problem p(format, 33, cols, 5);
      const std::vector<float> before = p.Run(true, false, 0, 5);
      p.x[2 * cols + 40] = bad;
      p.Quantize();
      const std::vector<float> after = p.Run(true, false, 0, 5);
      for (int64_t t = 0; t < 5; ++t) {
        for (int64_t r = 0; r < 33; ++r) {
          const int64_t i = t * 33 + r;
          MLF_EXPECT(t == 2 ? !std::isfinite(after[i]) : SameBits(&before[i], &after[i], 1));
        }
      }
    }
  }
}

void TestNoTokens() {
  for (Format format : kAllFormats) {
    const Problem p(format, 17, RowUnit(format), 0);
    MLF_EXPECT(p.Run(true, true, 0, 0).empty());
    MLF_EXPECT(p.Run(false, true, 0, 0).empty());
  }
}

void TestFormatTable() {
  MLF_EXPECT(FormatNames() ==
             "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, "
             "Q6_K, IQ4_NL, MXFP4, IQ2_XXS");
  for (Format format : kAllFormats) {
    const FormatInfo& info = InfoOf(format);
    MLF_EXPECT(info.format == format);
    MLF_EXPECT(FindFormat(info.name) == &info);
  }
  MLF_EXPECT(FindFormat(int64_t{31}) == nullptr && FindFormat(int64_t{1} << 32) == nullptr);
  MLF_EXPECT(FindFormat("q4_0") == nullptr && FindFormat("") == nullptr);
}

void TestAll() {
  TestFormatTable();
  TestTilesHoldTheBlocks();
  TestPackUnpack();
  TestQuantization(Format::kQ8_0, 127.f);
  TestQuantization(Format::kQ4_1, 32512.f);
  TestAgainstFloat64();
  TestExtremeWeights();
  TestBatchInvariance();
  TestTokenChunks();
  TestNonFiniteActivations();
  TestNoTokens();
}

}  // namespace
}  // namespace mlf

int main() { return mlf::RunAtEveryLevel(mlf::TestAll); }
