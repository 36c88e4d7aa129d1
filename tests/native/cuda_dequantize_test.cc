// Block formats on CUDA, in the emulator, through the ops: bit for bit what the CPU decodes and
// encodes.
#include "check.h"
#include "cuda_array.h"
#include "cuda_emulator.h"
#include "kernels/dequantize.h"
#include "quant/formats.h"
#include "random_weight.h"

namespace mlf {
namespace {

/// Random blocks with sane scales.
OwnedArray<uint8_t> RandomBlocks(Format format, int64_t rows, int64_t cols, uint64_t seed) {
  const FormatInfo& info = InfoOf(format);
  const int64_t row_bytes = RowBytes(format, cols);
  OwnedArray<uint8_t> w({rows, row_bytes});
  for (int64_t i = 0; i < w.size(); ++i) w[i] = static_cast<uint8_t>(256 * RandomUniform(seed, i));
  if (info.block == 1) {  // any 32 or 16 bits may be no number: these are
    for (int64_t i = 0; i < rows * cols; ++i) {
      const float v = static_cast<float>(RandomUniform(seed, i) - 0.5);
      const F16 half = F16::From(v);
      const BF16 brain = BF16::From(v);
      const void* from = format == Format::kF32   ? static_cast<const void*>(&v)
                         : format == Format::kF16 ? static_cast<const void*>(&half)
                                                  : static_cast<const void*>(&brain);
      std::memcpy(&w[i * info.block_bytes], from, info.block_bytes);
    }
    return w;
  }
  for (int64_t b = 0; b < w.size() / info.block_bytes; ++b) {
    for (int64_t offset : HalfOffsets(format)) {
      const F16 scale = F16::From(static_cast<float>(RandomUniform(seed + 1, b) - 0.4));
      std::memcpy(&w[b * info.block_bytes + offset], &scale, sizeof scale);
    }
  }
  return w;
}

OwnedArray<uint8_t> Shifted(const OwnedArray<uint8_t>& w, int64_t offset) {
  OwnedArray<uint8_t> moved({w.size() + offset});
  std::copy(w.data.begin(), w.data.end(), moved.data.begin() + offset);
  return moved;
}

template <typename T>
void TestDequantize(Format format) {
  static const ffi::Function op = ffi::Function::GetGlobalRequired("my_llm_ffi.dequantize");
  const FormatInfo& info = InfoOf(format);
  const ffi::String name(info.name);
  for (int64_t blocks : {1, 2, 3, 17}) {
    const int64_t cols = info.block == 1 ? blocks * 11 : blocks * info.block, rows = 3;
    const auto w = RandomBlocks(format, rows, cols, blocks);
    OwnedArray<float> floats({rows, cols});
    for (int64_t r = 0; r < rows; ++r) {
      info.dequantize_row(&w[r * w.size() / rows], &floats[r * cols], cols);
    }
    for (int64_t offset : {0, 1, 2, 3}) {
      auto moved = Shifted(w, offset);
      auto out = CudaOutput<T>({rows * cols + offset % 2});
      op(TensorView(From(moved, offset, {rows, w.size() / rows})),
         TensorView(From(out, offset % 2, {rows, cols})), name);
      for (int64_t i = 0; i < rows * cols; ++i) {
        const T want = FromFloat<T>(floats[i]);
        MLF_EXPECT(std::memcmp(&out[i + offset % 2], &want, sizeof want) == 0);
      }
    }
  }
  auto none = OnCuda(OwnedArray<uint8_t>({0, info.block_bytes}));
  auto nothing = CudaOutput<T>({0, info.block});
  op(TensorView(none), TensorView(nothing), name);
}

template <typename T>
void TestQuantize() {
  static const ffi::Function op = ffi::Function::GetGlobalRequired("my_llm_ffi.quantize_q8_0");
  for (int64_t cols : {32, 96, 2048, 4128}) {
    for (int64_t rows : {1, 3}) {
      auto x = RandomArray<T>({rows, cols}, cols, 3.f);
      for (int i = 0; i < 32 && cols > 32; ++i) x[i] = FromFloat<T>(0.f);
      if (cols > 100) x[70] = FromFloat<T>(std::nanf("")), x[99] = FromFloat<T>(INFINITY);
      if (cols > 200) {
        for (int i = 0; i < 32; ++i) x[128 + i] = FromFloat<T>(1e-45f * static_cast<float>(i));
        x[160] = FromFloat<T>(127.f), x[161] = FromFloat<T>(2.5f), x[162] = FromFloat<T>(-2.5f);
        x[163] = FromFloat<T>(0x1.fffffep-2f), x[164] = FromFloat<T>(-0x1.fffffep-2f);
      }
      const int64_t row_bytes = cols / 32 * 34;
      OwnedArray<uint8_t> want({rows, row_bytes});
      op(TensorView(x), TensorView(want));
      for (int64_t offset : {0, 1}) {
        auto moved = OnCuda(OwnedArray<T>({rows * cols + offset}));
        std::copy(x.data.begin(), x.data.end(), moved.data.begin() + offset);
        auto got = CudaOutput<uint8_t>({rows * row_bytes + 2 * offset});
        op(TensorView(From(moved, offset, {rows, cols})),
           TensorView(From(got, 2 * offset, {rows, row_bytes})));
        for (int64_t i = 0; i < want.size(); ++i) {
          MLF_EXPECT(got[i + 2 * offset] == want[i]);
        }
      }
    }
  }
  auto none = CudaOutput<T>({0, 32});
  auto nothing = CudaOutput<uint8_t>({0, 34});
  op(TensorView(none), TensorView(nothing));
}

}  // namespace
}  // namespace mlf

int main() {
  for (uint64_t seed : {1, 2}) {
    mlf::emulated::SetSeed(seed);
    for (mlf::Format format : mlf::kAllFormats) {
      mlf::TestDequantize<float>(format);
      mlf::TestDequantize<mlf::F16>(format);
      mlf::TestDequantize<mlf::BF16>(format);
    }
    mlf::TestQuantize<float>();
    mlf::TestQuantize<mlf::F16>();
    mlf::TestQuantize<mlf::BF16>();
  }
  return 0;
}
