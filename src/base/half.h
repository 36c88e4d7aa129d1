// Storage-only 16-bit floats; arithmetic happens in float. Light on purpose: SIMD files include it.
#pragma once
#include <bit>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define MLF_HOST_DEVICE __host__ __device__
#else
#define MLF_HOST_DEVICE
#endif
// Leaves no symbol behind, which *_simd.cc files must not (base/simd_fn.h).
#define MLF_INLINE_HALF __attribute__((always_inline)) MLF_HOST_DEVICE

namespace mlf {

/// Storage-only bfloat16.
struct BF16 {
  uint16_t bits;
  MLF_INLINE_HALF explicit operator float() const {
#ifdef __CUDA_ARCH__
    return __uint_as_float(uint32_t{bits} << 16);
#else
    return std::bit_cast<float>(uint32_t{bits} << 16);
#endif
  }
  MLF_INLINE_HALF static BF16 From(float f) {  // round to nearest even; NaN stays NaN
#ifdef __CUDA_ARCH__
    return {__bfloat16_as_ushort(__float2bfloat16_rn(f))};
#else
    const uint32_t u = std::bit_cast<uint32_t>(f);
    if ((u & 0x7FFFFFFF) > 0x7F800000) return {static_cast<uint16_t>((u >> 16) | 0x40)};
    return {static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16)};
#endif
  }
};

/// Storage-only IEEE half, converted without hardware support (SIMD code converts whole vectors,
/// see base/simd.h).
struct F16 {
  uint16_t bits;
  MLF_INLINE_HALF explicit operator float() const {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(bits));
#else
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16, rest = bits & 0x7FFFu;
    if (rest >= 0x7C00) return std::bit_cast<float>(sign | 0x7F800000 | (rest & 0x3FF) << 13);
    // Place the exponent as is, then scale by 2^112: normal and subnormal halves come out exact.
    const float magnitude = std::bit_cast<float>(rest << 13) * 0x1p112f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
#endif
  }
  MLF_INLINE_HALF static F16 From(float f) {  // round to nearest even
#ifdef __CUDA_ARCH__
    return {__half_as_ushort(__float2half_rn(f))};
#else
    const uint32_t u = std::bit_cast<uint32_t>(f), sign = (u >> 16) & 0x8000, rest = u & 0x7FFFFFFF;
    if (rest > 0x7F800000) return {static_cast<uint16_t>(sign | 0x7E00)};
    if (rest >= 0x477FF000) return {static_cast<uint16_t>(sign | 0x7C00)};  // rounds to infinity
    if (rest < 0x38800000) {  // subnormal: let the float adder round at bit 2^-24
      const float shifted = std::bit_cast<float>(rest) + 0.5f;
      return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000))};
    }
    const uint32_t rounded = rest + 0xFFF + ((rest >> 13) & 1);
    return {static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13))};
#endif
  }
};

}  // namespace mlf
