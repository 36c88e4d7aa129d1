// Op my_llm_ffi.dequantize: weights of any format as float32. Formats: quant/format_list.h.
#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>

#include "base/op.h"
#include "base/thread_pool.h"
#include "quant/formats.h"

namespace mlf {
namespace {

constexpr int64_t kBytesAtOnce = 64 << 10;

const Op kDequantize{"dequantize",
                     "(weight: T['rows row_bytes', 'u8'], *, format: " MLF_FORMAT_LITERAL
                     ") -> T['rows row_bytes//block_bytes*block', 'f32']",
                     R"(Weights of a block format as float32.

The blocks are those of GGUF files (ggml's quantization formats), bit for bit as PyPI's ``gguf``
reads them.

weight: Rows of whole blocks.
format: Name of the format.
)"};

void Dequantize(TensorView weight, TensorView out, const ffi::String& format) {
  kDequantize.Check(weight, out);
  kDequantize.Choice("format", format);
  const FormatInfo* info = FindFormat(std::string_view(format.data(), format.size()));
  const int64_t rows = weight.size(0), row_bytes = weight.size(1);
  const int64_t cols = row_bytes / info->block_bytes * info->block;
  kDequantize.That(weight.device().device_type == kDLCPU, "weight must be on the CPU")
      .That(row_bytes % info->block_bytes == 0, "weight has rows of ", row_bytes,
            " bytes, expected a multiple of ", info->block_bytes, " (one block of ", info->name,
            ")")
      .That(out.size(1) == cols, "out has rows of ", out.size(1), ", expected cols=", cols,
            " (from weight and format)");
  float* to = Data<float>(out);
  const uint8_t* from = Data<const uint8_t>(weight);
  ParallelFor(rows, kBytesAtOnce / std::max<int64_t>(1, row_bytes),
              [&](int64_t begin, int64_t end) {
                for (int64_t r = begin; r < end; ++r) {
                  info->dequantize_row(from + r * row_bytes, to + r * cols, cols);
                }
              });
}

TVM_FFI_STATIC_INIT_BLOCK() { kDequantize.Register(Dequantize); }

}  // namespace
}  // namespace mlf
