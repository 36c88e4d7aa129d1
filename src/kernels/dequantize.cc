// Op my_llm_ffi.dequantize: weights of any format as float32. Formats: quant/format_list.h.
#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>

#include "base/check.h"
#include "base/thread_pool.h"
#include "quant/formats.h"

namespace mlf {
namespace {

constexpr int64_t kBytesAtOnce = 64 << 10;

/// out[rows, cols] float32 = the weights of weight[rows, row_bytes] uint8.
void Dequantize(TensorView out, TensorView weight, const ffi::String& format) {
  Dim rows{"rows"}, row_bytes{"row_bytes"}, cols{"cols"};
  Args args("dequantize");
  args.Tensor("weight", weight, {&rows, &row_bytes}, {kU8})
      .Tensor("out", out, {&rows, &cols}, {kF32});
  const FormatInfo* info = FindFormat(std::string_view(format.data(), format.size()));
  args.That(info != nullptr, "format is '", format, "', expected one of ", FormatNames())
      .That(weight.device().device_type == kDLCPU, "weight must be on the CPU")
      .That(*row_bytes.value % info->block_bytes == 0, "weight has rows of ", *row_bytes.value,
            " bytes, expected a multiple of ", info->block_bytes, " (one block of ", info->name,
            ")");
  const int64_t expected = *row_bytes.value / info->block_bytes * info->block;
  args.That(*cols.value == expected, "out has rows of ", *cols.value, ", expected cols=", expected,
            " (from weight and format)");
  float* to = Data<float>(out);
  const uint8_t* from = Data<const uint8_t>(weight);
  ParallelFor(*rows.value, kBytesAtOnce / std::max<int64_t>(1, *row_bytes.value),
              [&](int64_t begin, int64_t end) {
                for (int64_t r = begin; r < end; ++r) {
                  info->dequantize_row(from + r * *row_bytes.value, to + r * expected, expected);
                }
              });
}

TVM_FFI_STATIC_INIT_BLOCK() {
  ffi::reflection::GlobalDef().def("my_llm_ffi.dequantize", Dequantize);
}

}  // namespace
}  // namespace mlf
