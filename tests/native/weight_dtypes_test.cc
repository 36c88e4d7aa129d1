// Matmul, lookup, dequantization and Q8_0 with inputs and outputs of every float type, at every CPU
// level of this machine. Counterparts: src/kernels/linear.cc, embedding_lookup.cc, dequantize.cc,
// quantize.cc. Float32 alone: linear_test.cc.
#include <cmath>
#include <limits>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "cpu_levels.h"
#include "kernels/dequantize.h"
#include "kernels/linear.h"
#include "owned_array.h"
#include "random_weight.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};

/// Bytes whose halves and floats are finite: exponents stay below the largest.
OwnedArray<uint8_t> RandomWeight(Format format, int64_t rows, int64_t cols, uint64_t seed) {
  OwnedArray<uint8_t> weight({rows, RowBytes(format, cols)});
  const int64_t block = InfoOf(format).block_bytes;
  for (int64_t i = 0; i < weight.size(); ++i) {
    weight[i] = static_cast<uint8_t>(256 * RandomUniform(seed, i));
    if (InfoOf(format).block == 1 && i % block == block - 1) weight[i] &= 0xB7;
  }
  for (int64_t i = 0; i < weight.size() && InfoOf(format).block > 1; i += block) {
    for (int64_t half : HalfOffsets(format)) weight[i + half + 1] &= 0xB7;
    if (format == Format::kMXFP4) weight[i] = 120;
  }
  return weight;
}

template <typename T>
OwnedArray<float> Wide(const OwnedArray<T>& x) {
  OwnedArray<float> wide({x.size()});
  for (int64_t i = 0; i < x.size(); ++i) wide[i] = static_cast<float>(x[i]);
  return wide;
}

template <typename T>
void ExpectRounded(const OwnedArray<T>& out, const OwnedArray<float>& exact) {
  MLF_EXPECT(out.size() == exact.size());
  for (int64_t i = 0; i < out.size(); ++i) {
    const T expected = FromFloat<T>(exact[i]);
    MLF_EXPECT(std::memcmp(&out[i], &expected, sizeof(T)) == 0);
  }
}

/// out = x of one type times the weight, out of another (the same for bias): as in float32,
/// rounded.
template <typename X, typename Out>
void TestLinear(Format format, int64_t tokens, int64_t rows, int64_t cols) {
  const auto weight = RandomWeight(format, rows, cols, 1);
  const auto x = RandomArray<X>({tokens, cols}, 2);
  const auto bias = RandomArray<Out>({rows}, 3);
  const OwnedArray<float> wide_x = Wide(x), wide_bias = Wide(bias);
  const auto run = [&](TensorView out, TensorView from, TensorView added) {
    linear_kernel(kCpu, out, from, weight, added, static_cast<int64_t>(format), cols);
  };
  OwnedArray<Out> out({tokens, rows});
  OwnedArray<float> exact({tokens, rows});
  for (bool with_bias : {false, true}) {
    const ArrayView none(nullptr, kF32, {0});
    run(out, x, with_bias ? bias.view : none);
    run(exact, ArrayView(const_cast<float*>(wide_x.data.data()), kF32, {tokens, cols}),
        with_bias ? wide_bias.view : none);
    ExpectRounded(out, exact);
  }
}

void TestLinearTypes() {
  for (Format format : kAllFormats) {
    const bool blocks = ActivationPlanes(format) > 0;
    for (int64_t tokens : {1, 3, 40}) {
      const int64_t rows = 37, cols = blocks ? 3 * RowUnit(format) : 45;
      TestLinear<F16, F16>(format, tokens, rows, cols);
      TestLinear<BF16, BF16>(format, tokens, rows, cols);
      TestLinear<F16, float>(format, tokens, rows, cols);
      TestLinear<float, BF16>(format, tokens, rows, cols);
    }
  }
}

/// Float32 activations that the kernel rounds itself are those rounded before.
void TestRoundedInside() {
  for (Format format : kAllFormats) {
    const int planes = ActivationPlanes(format);
    if (planes == 0) continue;
    const int64_t cols = 3 * RowUnit(format);
    const auto weight = RandomWeight(format, 37, cols, 1);
    auto x = RandomArray<float>({5, cols}, 2);
    OwnedArray<uint8_t> q({5, QuantizedRowBytes(cols, planes)});
    quantize_activations_kernel(kCpu, q, x, planes);
    OwnedArray<float> inside({5, 37}), before({5, 37});
    const ArrayView none(nullptr, kF32, {0});
    linear_kernel(kCpu, inside, x, weight, none, static_cast<int64_t>(format), cols);
    linear_kernel(kCpu, before, q, weight, none, static_cast<int64_t>(format), cols);
    MLF_EXPECT(SameBits(inside, before));
  }
}

/// More rows than the scratch memory of one chunk holds.
void TestChunks() {
  TestLinear<F16, F16>(Format::kF16, 70, 65536, 1);
  ThreadLimit one(1);
  TestLinear<BF16, F16>(Format::kQ8_0, 70, 65536, 32);
}

template <typename T>
void TestDequantizeInto(Format format, int64_t rows, int64_t cols) {
  const auto weight = RandomWeight(format, rows, cols, 5);
  OwnedArray<T> out({rows, cols});
  dequantize_kernel(kCpu, out, weight, static_cast<int64_t>(format));
  OwnedArray<float> exact({rows, cols});
  const FormatInfo& info = InfoOf(format);
  for (int64_t r = 0; r < rows; ++r) {
    info.dequantize_row(&weight[r * RowBytes(format, cols)], &exact[r * cols], cols);
  }
  ExpectRounded(out, exact);
}

void TestDequantize() {
  for (Format format : kAllFormats) {
    for (int64_t blocks : {1, 8, 9, 33}) {
      const int64_t cols = blocks * RowUnit(format);
      TestDequantizeInto<float>(format, 3, cols);
      TestDequantizeInto<F16>(format, 3, cols);
      TestDequantizeInto<BF16>(format, 3, cols);
    }
    if (InfoOf(format).block > 1) continue;
    for (int64_t cols : {1, 15, 17}) TestDequantizeInto<F16>(format, 2, cols);
  }
}

template <typename T, typename Id>
void TestLookupOf(Format format, bool tiled, int64_t cols) {
  constexpr int64_t kRows = 37, kIds = 50;
  auto table = RandomArray<T>({kRows, cols}, 4);
  const int64_t bytes = static_cast<int64_t>(sizeof(T));
  const ArrayView file(table.data.data(), kU8, {kRows, cols * bytes});
  OwnedArray<uint8_t> packed({PackedBytes(format, kRows, cols)});
  pack_weight_kernel(kCpu, packed, file, static_cast<int64_t>(format), cols);
  OwnedArray<Id> ids({kIds});
  for (int64_t i = 0; i < kIds; ++i) ids[i] = static_cast<Id>((i * 7 + 36) % kRows);
  OwnedArray<T> out({kIds, cols});
  OwnedArray<float> wide({kIds, cols});
  const TensorView source = tiled ? TensorView(packed) : TensorView(file);
  embedding_lookup_kernel(kCpu, out, source, ids, static_cast<int64_t>(format), cols);
  embedding_lookup_kernel(kCpu, wide, source, ids, static_cast<int64_t>(format), cols);
  for (int64_t i = 0; i < kIds; ++i) {
    MLF_EXPECT(std::memcmp(&out[i * cols], &table[ids[i] * cols], cols * bytes) == 0);
    for (int64_t k = 0; k < cols; ++k) {
      MLF_EXPECT(wide[i * cols + k] == static_cast<float>(table[ids[i] * cols + k]));
    }
  }
}

void TestLookup() {
  for (bool tiled : {false, true}) {
    for (int64_t cols : {1, 21, 1500}) {
      TestLookupOf<float, int32_t>(Format::kF32, tiled, cols);
      TestLookupOf<F16, int64_t>(Format::kF16, tiled, cols);
      TestLookupOf<BF16, int32_t>(Format::kBF16, tiled, cols);
    }
  }
}

/// One block as ggml quantizes it, in scalar code: roundf, and the float16 of the scale.
void ExpectQ8Block(const uint8_t* block, const float* x) {
  float most = 0;
  for (int i = 0; i < 32; ++i) most = std::max(most, std::fabs(x[i]));
  const float scale = most / 127.f, inverse = scale == 0 ? 0 : 1 / scale;
  const F16 stored = F16::From(scale);
  MLF_EXPECT(std::memcmp(block, &stored, 2) == 0);
  for (int i = 0; i < 32; ++i) {
    const float q = std::round(x[i] * inverse);
    MLF_EXPECT(static_cast<int8_t>(block[2 + i]) == (std::fabs(q) <= 127 ? q : 0));
  }
}

template <typename T>
void TestQ8(int64_t rows, int64_t cols, float scale) {
  auto x = RandomArray<T>({rows, cols}, 6, scale);
  if (x.size() >= 64) {
    for (int i = 0; i < 32; ++i) x[i] = FromFloat<T>(i == 0 ? 127.f : 0.5f - static_cast<float>(i));
    for (int i = 32; i < 64; ++i) x[i] = FromFloat<T>(0.f);
  }
  OwnedArray<uint8_t> q({rows, cols / 32 * 34});
  quantize_q8_0_kernel(kCpu, q, x);
  const OwnedArray<float> wide = Wide(x);
  for (int64_t b = 0; b < x.size() / 32; ++b) ExpectQ8Block(&q[b * 34], &wide[b * 32]);
}

void TestQuantizeQ8() {
  for (float scale : {1.f, 1e-3f, 1e4f}) {
    TestQ8<float>(3, 96, scale);
    TestQ8<F16>(1, 32, scale);
    TestQ8<BF16>(40, 1024, scale);
  }
  for (float scale : {1e-40f, 1e-38f, 1e30f}) TestQ8<float>(2, 64, scale);
}

void TestAll() {
  TestLinearTypes();
  TestRoundedInside();
  TestChunks();
  TestDequantize();
  TestLookup();
  TestQuantizeQ8();
}

}  // namespace
}  // namespace mlf

int main() { return mlf::RunAtEveryLevel(mlf::TestAll); }
