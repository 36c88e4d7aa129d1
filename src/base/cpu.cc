// CPU feature detection. Counterpart: cpu.h.
#include "base/cpu.h"

#include <tvm/ffi/tvm_ffi.h>

#include <cstdlib>
#include <cstring>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace mlf {
namespace {

bool Supports(CpuLevel level) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (level) {
    case CpuLevel::kBaseline:
      return true;
    case CpuLevel::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c");
    case CpuLevel::kAvx512:
      return Supports(CpuLevel::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
    default:
      return false;
  }
#elif defined(__aarch64__)
  return level == CpuLevel::kBaseline ||
         (level == CpuLevel::kDotprod && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0);
#else
  return level == CpuLevel::kBaseline;
#endif
}

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
