// Rows of weights as floats. Counterparts: dequantize_simd.h, quant/format_list.h (formats).
#include "kernels/dequantize_simd.h"

#include "base/simd.h"

namespace mlf::MLF_LEVEL {
namespace {

constexpr int64_t kPiece = 256;  // weights between a block and a 16-bit result: a few lines of L1

template <typename To, typename From>
MLF_INLINE void Convert(To* out, const From* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(x + i));
  const int rest = static_cast<int>(n - i);
  if (rest > 0) StorePartial(out + i, LoadPartial(x + i, rest), rest);
}

template <typename F, typename To>
MLF_INLINE void DequantizeAs(To* out, const uint8_t* row, int64_t cols) {
  if constexpr (!kIsBlockFormat<F>) {
    Convert(out, reinterpret_cast<const typename F::Value*>(row), cols);
  } else {
    float piece[kPiece];
    for (int64_t k = 0; k < cols; k += kPiece) {
      const int64_t n = cols - k < kPiece ? cols - k : kPiece;
      F::Dequantize(row + k / F::kWeights * F::kBytes, piece, n);
      Convert(out + k, piece, n);
    }
  }
}

}  // namespace

void DequantizeRow(float* out, const uint8_t* row, int64_t cols, Format format) {
  DispatchFormat(format, [&]<typename F>() {
    if constexpr (kIsBlockFormat<F>) {
      F::Dequantize(row, out, cols);
    } else {
      DequantizeAs<F>(out, row, cols);
    }
  });
}
void DequantizeRow(F16* out, const uint8_t* row, int64_t cols, Format format) {
  DispatchFormat(format, [&]<typename F>() { DequantizeAs<F>(out, row, cols); });
}
void DequantizeRow(BF16* out, const uint8_t* row, int64_t cols, Format format) {
  DispatchFormat(format, [&]<typename F>() { DequantizeAs<F>(out, row, cols); });
}

}  // namespace mlf::MLF_LEVEL
