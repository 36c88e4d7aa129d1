// Transposes of kWidth x kWidth floats in registers, for *_simd.cc files (see base/simd.h).
#pragma once
#include <utility>

#include "base/simd.h"

namespace mlf::MLF_LEVEL {

// Where lane i of a shuffle of (a, b) comes from: [0, kWidth) is a, the rest is b. The first four
// stay inside groups of four lanes, the last two move whole groups.
struct Low32 {
  static constexpr int Of(int i) { return (i & ~3) + (i & 3) / 2 + (i & 1) * kWidth; }
};
struct High32 {
  static constexpr int Of(int i) { return Low32::Of(i) + 2; }
};
struct Low64 {
  static constexpr int Of(int i) { return (i & ~3) + (i & 1) + (i & 2) / 2 * kWidth; }
};
struct High64 {
  static constexpr int Of(int i) { return Low64::Of(i) + 2; }
};
struct EvenGroups {
  static constexpr int kHalf = kWidth > 8 ? kWidth / 8 : 1;  // groups of four in half a register
  static constexpr int Of(int i) {
    return i / 4 % kHalf * 8 + i % 4 + (i / 4 >= kHalf ? kWidth : 0);
  }
};
struct OddGroups {
  static constexpr int Of(int i) { return EvenGroups::Of(i) + 4; }
};

template <typename From, int... kI>
MLF_INLINE NativeF32 Shuffle(NativeF32 a, NativeF32 b, std::integer_sequence<int, kI...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, From::Of(kI)...);
#else  // GCC 11
  return __builtin_shuffle(a, b, NativeI32{From::Of(kI)...});
#endif
}
template <typename From>
MLF_INLINE NativeF32 Shuffle(NativeF32 a, NativeF32 b) {
  return Shuffle<From>(a, b, std::make_integer_sequence<int, kWidth>());
}

/// Transposes the kWidth rows r[0 .. kWidth).
template <int kW = kWidth>
MLF_INLINE void Transpose(NativeF32* r) {
#pragma GCC unroll 4
  for (int i = 0; i < kW; i += 4) {  // 4 x 4 inside each group of lanes
    const NativeF32 a = Shuffle<Low32>(r[i], r[i + 1]), b = Shuffle<High32>(r[i], r[i + 1]),
                    c = Shuffle<Low32>(r[i + 2], r[i + 3]), d = Shuffle<High32>(r[i + 2], r[i + 3]);
    r[i] = Shuffle<Low64>(a, c);
    r[i + 1] = Shuffle<High64>(a, c);
    r[i + 2] = Shuffle<Low64>(b, d);
    r[i + 3] = Shuffle<High64>(b, d);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {  // then the groups
    if constexpr (kW == 8) {
      const NativeF32 a = r[j], b = r[4 + j];
      r[j] = Shuffle<EvenGroups>(a, b);
      r[4 + j] = Shuffle<OddGroups>(a, b);
    }
    if constexpr (kW == 16) {
      const NativeF32 a = Shuffle<EvenGroups>(r[j], r[4 + j]),
                      b = Shuffle<OddGroups>(r[j], r[4 + j]),
                      c = Shuffle<EvenGroups>(r[8 + j], r[12 + j]),
                      d = Shuffle<OddGroups>(r[8 + j], r[12 + j]);
      r[j] = Shuffle<EvenGroups>(a, c);
      r[4 + j] = Shuffle<EvenGroups>(b, d);
      r[8 + j] = Shuffle<OddGroups>(a, c);
      r[12 + j] = Shuffle<OddGroups>(b, d);
    }
  }
}

/// out[j * out_stride + i] = rows[i * stride + j] for i < n (0 for n <= i < kWidth), j < dims.
template <typename T>
MLF_INLINE void TransposeRows(float* out, int64_t out_stride, const T* rows, int64_t stride,
                              int64_t n, int64_t dims) {
  int64_t d = 0;
  for (; n >= kWidth && d + kLanes <= dims; d += kLanes) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      NativeF32 r[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) r[i] = Load(rows + i * stride + d).part[p];
      Transpose(r);
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) {
        std::memcpy(out + (d + p * kWidth + j) * out_stride, &r[j], sizeof r[j]);
      }
    }
  }
  for (; d < dims; d += kLanes) {  // few rows, or the last few dims
    const int lanes = static_cast<int>(dims - d < kLanes ? dims - d : kLanes);
    float lane[kWidth][kLanes] = {};
    for (int i = 0; i < kWidth && i < n; ++i) {
      Store(lane[i], LoadPartial(rows + i * stride + d, lanes));
    }
    for (int j = 0; j < lanes; ++j) {
      for (int i = 0; i < kWidth; ++i) out[(d + j) * out_stride + i] = lane[i][j];
    }
  }
}

}  // namespace mlf::MLF_LEVEL
