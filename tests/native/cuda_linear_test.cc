// Matrix multiplication on CUDA, in the emulator, against float64: blocks times a few tokens and
// many, and floats of any dtypes. Counterparts: src/kernels/linear.cu, linear_few.cu,
// linear_tiles.cu, linear_floats.cu. cuBLASLt: cuda_linear_cublas_test.cc; sizes:
// linear_launch_test.cc.
#include <limits>

#include "cuda_linear_problem.h"
#include "kernels/linear_launch.h"

namespace mlf {
namespace {

// Of the sum of magnitudes: float32 sums of exact products, of activations in two parts (2^-18).
constexpr double kFewError = 6e-6, kFloatError = 2e-6;
// Activations and weights in bfloat16, each to nearest.
constexpr double kTileError = 0x1p-8 + 0x1p-16;

template <typename X>
constexpr Format FormatOf() {
  if constexpr (std::is_same_v<X, float>) return Format::kF32;
  return std::is_same_v<X, F16> ? Format::kF16 : Format::kBF16;
}

bool IsBlock(Format format) { return InfoOf(format).block > 1; }

/// Sizes of rows: one block, some, more chunks than a block has warps and a part of one.
std::vector<int64_t> ColumnsOf(Format format) {
  if (InfoOf(format).block > kQuantBlock) return {256, 768, 2560};
  return {32, 352, 2528};
}

template <typename X, typename Out>
void TestFewTokens() {
  for (Format format : kAllFormats) {
    if (!IsBlock(format)) continue;
    int turn = 0;
    for (int64_t cols : ColumnsOf(format)) {
      for (int64_t tokens : {1, 3, 5, 8, 11}) {
        // Every place within a word, for the formats that may begin at any byte; last rows missing.
        const int64_t rows = turn % 3 == 0 ? 1 : turn % 3 == 1 ? 16 : 83;
        const CudaProduct<X, Out> p(format, rows, cols, tokens, ++turn % 4);
        const bool with_bias = turn % 2 == 0;
        p.ExpectNear(p.Run(with_bias), with_bias, kFewError);
      }
    }
  }
}

/// A token's outputs are the same bits in any batch of the kind, a few tokens or more.
template <typename X>
void TestBatches(Format format, int64_t cols, int64_t tokens, std::initializer_list<int64_t> sizes,
                 int64_t rows = 40) {
  const CudaProduct<X> p(format, rows, cols, tokens);
  const auto whole = p.Run(true);
  for (int64_t n : sizes) {
    for (int64_t begin : {int64_t{0}, tokens - n}) {
      const auto part = p.Run(true, begin, begin + n);
      MLF_EXPECT(std::memcmp(part.data.data(), &whole.data[begin * p.rows],
                             part.data.size() * sizeof(X)) == 0);
    }
  }
}

/// Sizes around those of tiles, in steps of which the last has a half; the emulator has four
/// multiprocessors, which four wide tiles occupy.
struct TileCase {
  int64_t tokens, rows, blocks;
  bool wide;
};
constexpr TileCase kTileCases[] = {
    {33, 131, 1, false}, {127, 127, 3, false}, {128, 128, 5, false}, {129, 129, 11, false},
    {130, 6, 7, false},  {255, 385, 1, true},  {256, 512, 3, true},  {257, 129, 11, true},
    {129, 511, 5, true}, {513, 136, 2, true},
};

template <typename X, typename Out>
void TestTile(Format format, const TileCase& c, int turn) {
  const bool super = InfoOf(format).block > kQuantBlock;
  const int64_t cols = super ? (c.blocks > 5 ? 512 : 256) : c.blocks * kQuantBlock;
  bool wide = false;
  DispatchFormat(format, [&]<typename F>() {
    wide = cuda_linear::TakesWideTiles<F>(c.tokens, c.rows, 80, 4);
  });
  MLF_EXPECT(wide == c.wide);
  const CudaProduct<X, Out> p(format, c.rows, cols, c.tokens, turn % 4);
  p.ExpectNear(p.Run(turn % 2 == 0), turn % 2 == 0, kTileError);
}

void TestTiles() {
  int turn = 0;
  for (Format format : kAllFormats) {
    if (!IsBlock(format)) continue;
    for (int i = 0; i < 2; ++i) {  // in turn, so that each format meets both kinds
      ++turn;
      TestTile<BF16, BF16>(format, kTileCases[turn % 5], turn);
      TestTile<BF16, float>(format, kTileCases[5 + turn % 5], turn + i);
    }
    TestTile<float, float>(format, kTileCases[turn % 10], turn);
    TestTile<F16, F16>(format, kTileCases[(turn + 3) % 10], turn + 1);
  }
  for (Format format : {Format::kQ8_0, Format::kQ4_K}) {
    for (const TileCase& c : kTileCases) {
      TestTile<float, BF16>(format, c, ++turn);
      TestTile<BF16, F16>(format, c, ++turn);
    }
  }
}

/// Only the token that has it shows it.
void TestNonFinite(int64_t tokens) {
  for (Format format : {Format::kQ8_0, Format::kQ4_K}) {
    for (float bad : {std::numeric_limits<float>::quiet_NaN(),
                      std::numeric_limits<float>::infinity(), 3.4e38f}) {
      CudaProduct<float> p(format, 17, 512, tokens);
      const auto before = p.Run(false);
      p.x[2 * p.cols + 300] = bad;
      const auto after = p.Run(false);
      for (int64_t i = 0; i < after.size(); ++i) {
        if (i / 17 != 2) MLF_EXPECT(before[i] == after[i]);
        if (i / 17 == 2 && !std::isfinite(bad)) MLF_EXPECT(!std::isfinite(after[i]));
      }
    }
  }
}

template <typename X, typename Out>
void TestFloats() {
  for (Format format : {Format::kF32, Format::kF16, Format::kBF16}) {
    const bool cublas = FormatOf<X>() == format;  // takes more than a few tokens of one dtype
    for (int64_t cols : {0, 1, 7, 64, 100, 1032}) {
      for (int64_t tokens : {1, 2, 5, 8, 17}) {
        if (tokens > 8 && cublas && cols > 0) continue;
        for (int64_t shift : {0, 16}) {
          const CudaProduct<X, Out> p(format, cols == 7 ? 1 : 19, cols, tokens, shift);
          p.ExpectNear(p.Run(shift == 0), shift == 0, kFloatError);
        }
      }
    }
  }
}

void TestNothingToDo() {
  for (Format format : kAllFormats) {
    const int64_t cols = RowUnit(format);
    MLF_EXPECT(CudaProduct<float>(format, 5, cols, 0).Run(true).size() == 0);
    MLF_EXPECT(CudaProduct<float>(format, 0, cols, 3).Run(true).size() == 0);
    const CudaProduct<float> empty(format, 5, 0, 3);
    empty.ExpectNear(empty.Run(true), true, 0);
  }
}

void TestRefusals() {
  const CudaProduct<float> p(Format::kQ4_0, 16, 64, 2);
  auto out = CudaOutput<float>({2, 16});
  const ArrayView none(nullptr, kF32, {0}, kCuda);
  const auto run = [&](const TensorView& x, const TensorView& weight) {
    linear_kernel(kCuda, out, x, weight, none, static_cast<int64_t>(p.format), p.cols);
  };
  const ArrayView packed(const_cast<uint8_t*>(p.weight.data()), kU8,
                         {static_cast<int64_t>(p.weight.size())}, kCuda);
  MLF_EXPECT_THROWS(run(p.x, packed), "NotImplementedError", "weight is packed");
  const auto rounded = OnCuda(OwnedArray<uint8_t>({2, 96}));
  MLF_EXPECT_THROWS(run(rounded, p.Weight()), "NotImplementedError", "x has dtype uint8");
  const ArrayView on_cpu(const_cast<uint8_t*>(p.weight.data()), kU8, {16, RowBytes(p.format, 64)});
  MLF_EXPECT_THROWS(run(p.x, on_cpu), "ValueError", "weight is not a CUDA tensor");
  MLF_EXPECT_THROWS(
      pack_weight_kernel(kCuda, packed, p.Weight(), static_cast<int64_t>(p.format), p.cols),
      "NotImplementedError", "the tiled layout is for CPUs");
}

}  // namespace
}  // namespace mlf

int main() {
  using namespace mlf;  // NOLINT(google-build-using-namespace)
  TestFewTokens<float, float>();
  TestFewTokens<F16, float>();
  TestFewTokens<BF16, BF16>();
  for (Format format : {Format::kQ8_0, Format::kQ5_1, Format::kQ6_K}) {
    TestBatches<float>(format, 2816, 8, {1, 2, 4, 5, 7});
    TestBatches<BF16>(format, 768, 140, {33, 129});
    TestBatches<BF16>(format, 256, 260, {33, 128, 129, 256}, 390);  // narrow tiles and wide ones
  }
  TestBatches<float>(Format::kBF16, 520, 8, {1, 2, 4, 5, 7});
  TestTiles();
  TestNonFinite(5);
  TestNonFinite(40);
  TestFloats<float, float>();
  TestFloats<F16, F16>();
  TestFloats<BF16, float>();
  TestNothingToDo();
  TestRefusals();
  return 0;
}
