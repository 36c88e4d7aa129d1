// Rows of weights as floats, at every CPU level. Counterparts: dequantize_simd.cc, dequantize.cc.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/row_out.h"
#include "base/simd_fn.h"
#include "quant/format_list.h"

namespace mlf {

// out[cols] = the weights of a row in the file's layout; cols is a multiple of the format's block.
// 16-bit results are the float32 ones, rounded to nearest even.
MLF_SIMD_FN(dequantize_row_f32, DequantizeRow,
            void(RowOut<float> out, const uint8_t* row, int64_t cols, Format format))
MLF_SIMD_FN(dequantize_row_f16, DequantizeRow,
            void(RowOut<F16> out, const uint8_t* row, int64_t cols, Format format))
MLF_SIMD_FN(dequantize_row_bf16, DequantizeRow,
            void(RowOut<BF16> out, const uint8_t* row, int64_t cols, Format format))

}  // namespace mlf
