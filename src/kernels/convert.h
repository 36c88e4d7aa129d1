// Rows of any float dtype into rows of another. Counterpart: convert_simd.h.
#pragma once
#include <cstring>
#include <memory>
#include <type_traits>

#include "base/dtype.h"
#include "kernels/convert_simd.h"

namespace mlf {

inline void Convert(F16* out, const float* x, int64_t n) { narrow_to_f16(out, x, n); }
inline void Convert(BF16* out, const float* x, int64_t n) { narrow_to_bf16(out, x, n); }
inline void Convert(float* out, const F16* x, int64_t n) { widen_f16(out, x, n); }
inline void Convert(float* out, const BF16* x, int64_t n) { widen_bf16(out, x, n); }

template <typename T>
void Convert(T* out, const T* x, int64_t n) {
  std::memcpy(out, x, n * sizeof(T));
}

/// out[n] = x[n], rounded to nearest even. `wide` [n] is for what cannot go without a step between.
template <typename T, typename S>
void Convert(T* out, const S* x, int64_t n, float* wide) {
  if constexpr (sizeof(T) == 2 && sizeof(S) == 2 && !std::is_same_v<T, S>) {
    Convert(wide, x, n);
    Convert(out, wide, n);
  } else {
    Convert(out, x, n);
  }
}

/// out[j, i] = x[i * stride + j] for i < n <= 32, j < dims; out [dims, 32].
inline void Transpose32(float* out, const float* x, int64_t stride, int64_t n, int64_t dims) {
  transpose_f32(out, x, stride, n, dims);
}
inline void Transpose32(float* out, const F16* x, int64_t stride, int64_t n, int64_t dims) {
  transpose_f16(out, x, stride, n, dims);
}
inline void Transpose32(float* out, const BF16* x, int64_t stride, int64_t n, int64_t dims) {
  transpose_bf16(out, x, stride, n, dims);
}

}  // namespace mlf
