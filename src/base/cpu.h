// Which instructions this process may use. Chosen once at load; src/*/*_simd.cc is compiled once
// per level.
#pragma once
#include <cstdint>

namespace mlf {

/// x86_64: x86-64-v2, AVX2 + FMA + F16C, AVX-512 F/BW/VL/DQ + VNNI. aarch64: kBaseline is NEON,
/// kAvx2 does not exist, kDotprod is NEON with dot products.
enum class CpuLevel : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2, kDotprod = 3 };
inline constexpr int kCpuLevels = 4;

/// The highest level of this CPU, or what MY_LLM_FFI_CPU=baseline|avx2|avx512|dotprod asks for.
/// Throws ValueError when that variable names an unknown level or one that this CPU lacks (at first
/// use, never at load).
CpuLevel CpuLevelInUse();

const char* CpuLevelName(CpuLevel level);

}  // namespace mlf
