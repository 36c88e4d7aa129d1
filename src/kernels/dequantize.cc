// Op my_llm_ffi.dequantize: weights of any format as floats. Counterparts: dequantize.h,
// dequantize_simd.cc.
#include "kernels/dequantize.h"

#include <algorithm>

#include "base/op.h"
#include "base/thread_pool.h"
#include "kernels/dequantize_simd.h"
#include "kernels/weight_argument.h"

namespace mlf {
namespace {

constexpr int64_t kWeightsAtOnce = 32 << 10;  // that a thread takes: some microseconds

template <typename T>
struct Row;
template <>
struct Row<float> {
  static constexpr auto& kFrom = dequantize_row_f32;
};
template <>
struct Row<F16> {
  static constexpr auto& kFrom = dequantize_row_f16;
};
template <>
struct Row<BF16> {
  static constexpr auto& kFrom = dequantize_row_bf16;
};

void DequantizeCpu(TensorView out, TensorView weight, int64_t format_number) {
  const Format format = static_cast<Format>(format_number);
  const int64_t rows = out.size(0), cols = out.size(1), row_bytes = weight.size(1);
  const uint8_t* from = Data<const uint8_t>(weight);
  if (cols == 0) return;
  DispatchFloat(out.dtype(), [&]<typename T>() {
    T* to = Data<T>(out);
    const int64_t out_bytes = cols * static_cast<int64_t>(sizeof(T));
    const bool stream = WorthStreaming(to, from, rows * out_bytes, out_bytes);
    ParallelFor(rows, std::max<int64_t>(1, kWeightsAtOnce / cols), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        Row<T>::kFrom({to + r * cols, stream}, from + r * row_bytes, cols, format);
      }
    });
  });
}

[[maybe_unused]] const bool kFilled = dequantize_kernel.SetCpu(DequantizeCpu);

const Op kDequantize{"dequantize",
                     "(weight: T['rows row_bytes', 'u8'], *, format: " MLF_FORMAT_LITERAL
                     ") -> T['rows row_bytes//block_bytes*block', 'f32 f16 bf16']",
                     R"(Weights of a block format as floats.

The blocks are those of GGUF files (ggml's quantization formats), in float32 bit for bit as PyPI's
``gguf`` reads them; into a 16-bit ``out`` the same numbers, rounded to nearest even.

weight: Rows of whole blocks.
format: Name of the format.
)"};

void Dequantize(TensorView weight, TensorView out, const ffi::String& format) {
  kDequantize.Check(weight, out);
  const WeightArgument w =
      ReadWeight(kDequantize, {.name = "weight", .tensor = weight, .format = format});
  kDequantize.That(out.size(1) == w.cols, "out has rows of ", out.size(1),
                   ", expected cols=", w.cols, " (from weight and format)");
  if (out.numel() == 0) return;
  dequantize_kernel(weight.device(), out, w.bytes, static_cast<int64_t>(w.format));
}

TVM_FFI_STATIC_INIT_BLOCK() { kDequantize.Register(Dequantize); }

}  // namespace
}  // namespace mlf
