// Rows between float and 16 bits, and into pages. Counterparts: convert_simd.h, convert.h.
#include "kernels/convert_simd.h"

#include "base/simd.h"
#include "kernels/transpose.h"

namespace mlf::MLF_LEVEL {

constexpr int kEntries = 32;  // kPageSize of attention.h, which is no light header

template <typename T, typename S>
MLF_INLINE void Convert(T* out, const S* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(x + i));
  const int left = static_cast<int>(n - i);
  if (left > 0) StorePartial(out + i, LoadPartial(x + i, left), left);
}

template <typename T>
MLF_INLINE void TransposeAll(float* out, const T* x, int64_t stride, int64_t n, int64_t dims) {
  for (int e = 0; e < n; e += kWidth) {
    TransposeRows(out + e, kEntries, x + e * stride, stride, n - e, dims);
  }
}

void NarrowToF16(F16* out, const float* x, int64_t n) { Convert(out, x, n); }
void NarrowToBF16(BF16* out, const float* x, int64_t n) { Convert(out, x, n); }
void WidenF16(float* out, const F16* x, int64_t n) { Convert(out, x, n); }
void WidenBF16(float* out, const BF16* x, int64_t n) { Convert(out, x, n); }

void TransposeF32(float* out, const float* x, int64_t stride, int64_t n, int64_t dims) {
  TransposeAll(out, x, stride, n, dims);
}
void TransposeF16(float* out, const F16* x, int64_t stride, int64_t n, int64_t dims) {
  TransposeAll(out, x, stride, n, dims);
}
void TransposeBF16(float* out, const BF16* x, int64_t stride, int64_t n, int64_t dims) {
  TransposeAll(out, x, stride, n, dims);
}

}  // namespace mlf::MLF_LEVEL
