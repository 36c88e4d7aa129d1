// CPU feature detection. Counterpart: cpu.h.
#include "base/cpu.h"

#include <tvm/ffi/tvm_ffi.h>

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace mlf {
namespace {

#if defined(__x86_64__)
struct CpuidWords {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidWords Cpuid(uint32_t leaf) {
  CpuidWords words;
  __get_cpuid_count(leaf, 0, &words.eax, &words.ebx, &words.ecx, &words.edx);
  return words;
}

constexpr uint32_t Bits(std::initializer_list<int> positions) {
  uint32_t bits = 0;
  for (int position : positions) bits |= uint32_t{1} << position;
  return bits;
}

bool Has(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

/// Which register files the operating system saves; only valid where CPUID says OSXSAVE.
uint64_t EnabledState() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

/// Every feature of x86-64-v3 and v4 (psABI), because the compiler may use any of them, and VNNI.
/// Not __builtin_cpu_supports: the runtime of zig's clang, which builds the release, has none.
bool Supports(CpuLevel level) {
  if (level == CpuLevel::kBaseline) return true;
  if (level == CpuLevel::kDotprod) return false;
  const CpuidWords basic = Cpuid(1), extended = Cpuid(7), amd = Cpuid(0x80000001);
  // FMA, MOVBE, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT
  if (!Has(basic.ecx, Bits({12, 22, 27, 28, 29})) || !Has(extended.ebx, Bits({3, 5, 8})) ||
      !Has(amd.ecx, Bits({5}))) {
    return false;
  }
  const uint64_t state = EnabledState();
  if (level == CpuLevel::kAvx2) return (state & 0x6) == 0x6;  // SSE and AVX registers
  // AVX512 F, DQ, CD, BW, VL; VNNI; and the mask and 512-bit registers
  return Has(extended.ebx, Bits({16, 17, 28, 30, 31})) && Has(extended.ecx, Bits({11})) &&
         (state & 0xE6) == 0xE6;
}
#else
bool Supports(CpuLevel level) {
  if (level == CpuLevel::kBaseline) return true;
#if defined(__aarch64__)
  return level == CpuLevel::kDotprod && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return false;
#endif
}
#endif

CpuLevel Choose() {
  constexpr CpuLevel kBestFirst[] = {CpuLevel::kAvx512, CpuLevel::kAvx2, CpuLevel::kDotprod,
                                     CpuLevel::kBaseline};
  const char* wanted = std::getenv("MY_LLM_FFI_CPU");
  if (wanted == nullptr || *wanted == '\0') {
    for (CpuLevel level : kBestFirst) {
      if (Supports(level)) return level;
    }
  }
  for (CpuLevel level : kBestFirst) {
    if (std::strcmp(wanted, CpuLevelName(level)) != 0) continue;
    if (!Supports(level))
      TVM_FFI_THROW(ValueError) << "MY_LLM_FFI_CPU=" << wanted << ": this CPU has no " << wanted;
    return level;
  }
  TVM_FFI_THROW(ValueError) << "MY_LLM_FFI_CPU=" << wanted
                            << ": expected baseline, avx2, avx512 or dotprod";
}

}  // namespace

CpuLevel CpuLevelInUse() {
  static const CpuLevel level = Choose();
  return level;
}

const char* CpuLevelName(CpuLevel level) {
  static constexpr const char* kNames[kCpuLevels] = {"baseline", "avx2", "avx512", "dotprod"};
  return kNames[static_cast<int>(level)];
}

}  // namespace mlf
