// Per-level parts of linear.cc: micro-kernels over tiles and the quantization of activations.
#pragma once
#include <cstdint>

#include "base/row_out.h"
#include "base/simd_fn.h"
#include "quant/format_list.h"

namespace mlf {

/// 32 activations as quantize_activations writes them; a row is cols / 32 of these, no padding.
/// One plane: x = scale * q[0], |q| <= 127. Two: x = scale * (256 * q[0] + q[1]), at most 32512.
template <int kPlanes>
struct ActivationBlock {
  int8_t q[kPlanes][kQuantBlock];
  float scale;       // NaN where the block has one
  int32_t sum;       // of the integers
  float scaled_sum;  // scale * sum, for formats with minima
  int32_t half_sum;  // of the first 16 integers, for formats whose scales are for 16
};

/// One matmul, as the micro-kernels see it.
struct LinearTask {
  Format format;
  float* out;        // [tokens, rows]
  const uint8_t* x;  // [tokens, x_row_bytes]: ActivationBlock or float
  const uint8_t* weight;
  bool tiled;          // the weight, else [rows, row_bytes]
  const float* bias;   // [rows] or nullptr
  int64_t rows, cols;  // of the weight
  int64_t x_row_bytes;
  int64_t group_bytes;  // of one group of 16 rows in the tiled layout
};

/// Outputs of groups [group, group + groups), whose tiles stand at `tiles`, for tokens [begin,
/// end).
MLF_SIMD_FN(linear_groups, LinearGroups,
            void(const LinearTask& task, const uint8_t* tiles, int64_t group, int64_t groups,
                 int64_t begin, int64_t end))

/// The same for one whole group of a float format from its 16 rows in the file's layout: for up to
/// kFewTokens tokens, where tiles would cost more than they save.
MLF_SIMD_FN(linear_rows, LinearRows,
            void(const LinearTask& task, const uint8_t* rows, int64_t group, int64_t begin,
                 int64_t end))
inline constexpr int64_t kFewTokens = 8;

/// Groups that share one load of the activations: work is best cut in multiples of it.
inline constexpr int64_t kGroupsPerTile = 2;

MLF_SIMD_FN(quantize_row, QuantizeRow, void(uint8_t* q, const float* x, int64_t cols, int planes))

// Blocks of Q8_0 from 32 values each.
MLF_SIMD_FN(quantize_q8_f32, QuantizeQ8, void(RowOut<uint8_t> q, const float* x, int64_t blocks))
MLF_SIMD_FN(quantize_q8_f16, QuantizeQ8, void(RowOut<uint8_t> q, const F16* x, int64_t blocks))
MLF_SIMD_FN(quantize_q8_bf16, QuantizeQ8, void(RowOut<uint8_t> q, const BF16* x, int64_t blocks))

}  // namespace mlf
