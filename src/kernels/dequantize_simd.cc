// Rows of weights as floats. Counterparts: dequantize_simd.h, quant/format_list.h (formats).
#include "kernels/dequantize_simd.h"

#include <type_traits>

#include "base/simd_row.h"
#include "kernels/block_dot.h"

namespace mlf::MLF_LEVEL {
namespace {

constexpr int64_t kPiece = 512;  // weights on their way to 16-bit results or past the caches

template <bool kStream, typename To, typename From>
MLF_INLINE void Convert(To* out, const From* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Put<kStream>(out + i, Load(x + i), kLanes);
  const int rest = static_cast<int>(n - i);
  if (rest > 0) StorePartial(out + i, LoadPartial(x + i, rest), rest);
}

/// Blocks whose quants come in lanes.
template <typename F>
concept InLanes = requires(const uint8_t* block) { F::template Quants<Lanes>(block, 0); };

MLF_INLINE F32 LoadScale(const uint8_t* half) {
#if defined(__AVX2__)
  uint16_t bits;
  std::memcpy(&bits, half, sizeof bits);
  return Set(_cvtsh_ss(bits));
#else
  return Set(quant::LoadHalf(half));
#endif
}

template <typename F, bool kStream, typename To>
MLF_INLINE void DequantizeLanes(To* out, const uint8_t* blocks, int64_t n) {
  for (int64_t k = 0; k < n; k += kQuantBlock, blocks += F::kBytes) {
    const F32 d = LoadScale(blocks);
    const F32 first = d * ToFloat(F::template Quants<Lanes>(blocks, 0)),
              second = d * ToFloat(F::template Quants<Lanes>(blocks, 1));
    if constexpr (kStream && sizeof(To) == 2) {
      StreamTwo(out + k, first, second);
    } else {
      Put<kStream>(out + k, first, kLanes);
      Put<kStream>(out + k + kLanes, second, kLanes);
    }
  }
}

/// Formats that go from registers to their place, and others: F::Dequantize writes to memory.
template <typename F>
inline constexpr bool kDirect = InLanes<F> || !kIsBlockFormat<F>;

template <typename F, bool kStream, typename To>
MLF_INLINE void DequantizeDirect(To* out, const uint8_t* row, int64_t cols) {
  if constexpr (InLanes<F>) {
    DequantizeLanes<F, kStream>(out, row, cols);
  } else {
    Convert<kStream>(out, reinterpret_cast<const typename F::Value*>(row), cols);
  }
}

/// Up to kPiece weights.
template <typename F, typename To>
MLF_INLINE void DequantizePiece(To* out, const uint8_t* blocks, int64_t n) {
  if constexpr (std::is_same_v<To, float>) {
    F::Dequantize(blocks, out, n);
  } else {
    float piece[kPiece];
    F::Dequantize(blocks, piece, n);
    Convert<false>(out, piece, n);
  }
}

template <typename To>
MLF_INLINE void Dequantize(RowOut<To> out, const uint8_t* row, int64_t cols, Format format) {
  DispatchFormat(format, [&]<typename F>() {
    if constexpr (kDirect<F>) {
      WithOut(out, [&]<bool kStream>(To* to) { DequantizeDirect<F, kStream>(to, row, cols); });
    } else {
      static_assert(kPiece % F::kWeights == 0);
      alignas(kCacheLine) To piece[kPiece];
      for (int64_t k = 0; k < cols; k += kPiece, row += kPiece / F::kWeights * F::kBytes) {
        const int64_t n = cols - k < kPiece ? cols - k : kPiece;
        DequantizePiece<F>(out.stream ? piece : out.data + k, row, n);
        if (out.stream) StreamLines(out.data + k, piece, n * static_cast<int64_t>(sizeof(To)));
      }
      if (out.stream) EndStream();
    }
  });
}

}  // namespace

void DequantizeRow(RowOut<float> out, const uint8_t* row, int64_t cols, Format format) {
  Dequantize(out, row, cols, format);
}
void DequantizeRow(RowOut<F16> out, const uint8_t* row, int64_t cols, Format format) {
  Dequantize(out, row, cols, format);
}
void DequantizeRow(RowOut<BF16> out, const uint8_t* row, int64_t cols, Format format) {
  Dequantize(out, row, cols, format);
}

}  // namespace mlf::MLF_LEVEL
