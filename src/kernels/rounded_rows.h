// Rounded activations of the last product, for the next one of the same. Counterpart: linear.cc.
#pragma once
#include <cstring>
#include <utility>

#include "base/buffer.h"
#include "kernels/linear.h"
#include "kernels/linear_simd.h"

namespace mlf {

/// Query, key and value are products of one x, gate and up of another. A caller of the op cannot
/// say so, and to round a row anew takes ten times as long as to see that it is the one of before.
///
/// Borrows what this thread keeps; a call inside the call (of a signal handler, say) finds nothing.
class RoundedRows {
 public:
  static constexpr int64_t kMaxValues = 8192;

  RoundedRows() : rows_(std::exchange(Kept(), {})) {}
  ~RoundedRows() { Kept() = std::move(rows_); }
  RoundedRows(const RoundedRows&) = delete;
  RoundedRows& operator=(const RoundedRows&) = delete;

  /// x[tokens, cols], 1 to kMaxValues in all, as quantize_row has them.
  const uint8_t* Of(const float* x, int64_t tokens, int64_t cols, int planes) {
    const int64_t bytes = tokens * cols * static_cast<int64_t>(sizeof(float));
    const bool same = rows_.tokens == tokens && rows_.cols == cols && rows_.planes == planes &&
                      std::memcmp(rows_.x.data(), x, bytes) == 0;
    if (!same) Round(x, tokens, cols, planes, bytes);
    return rows_.rounded.data();
  }

 private:
  struct Rows {
    Buffer x{}, rounded{};
    int64_t tokens = 0, cols = 0;
    int planes = 0;
  };

  static Rows& Kept() {
    thread_local Rows kept;
    return kept;
  }

  void Round(const float* x, int64_t tokens, int64_t cols, int planes, int64_t bytes) {
    const int64_t row_bytes = QuantizedRowBytes(cols, planes);
    rows_.tokens = 0;  // as long as what follows may fail
    if (rows_.x.bytes() < bytes) rows_.x = Buffer(bytes);
    if (rows_.rounded.bytes() < tokens * row_bytes) rows_.rounded = Buffer(tokens * row_bytes);
    std::memcpy(rows_.x.data(), x, bytes);
    for (int64_t t = 0; t < tokens; ++t) {
      quantize_row(rows_.rounded.data() + t * row_bytes, x + t * cols, cols, planes);
    }
    rows_.tokens = tokens;
    rows_.cols = cols;
    rows_.planes = planes;
  }

  Rows rows_;
};

}  // namespace mlf
