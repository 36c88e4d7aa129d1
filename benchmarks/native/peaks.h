// What this machine can do at most (the best of several runs): reads from memory, multiply-adds of
// floats and bytes.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/cpu.h"
#include "base/thread_pool.h"

namespace mlf::bench {

inline double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Seconds {
  double median, best;
};

/// Seconds of one of `times` calls, after one that does not count.
template <typename Fn>
Seconds Measure(int times, Fn fn) {
  std::vector<double> seconds;
  fn();
  for (int i = 0; i < times; ++i) {
    const double start = Now();
    fn();
    seconds.push_back(Now() - start);
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[times / 2], seconds[0]};
}

/// Bytes per second that all threads read from memory together.
inline double ReadPeak() {
  constexpr int64_t kBytes = 256 << 20, kPiece = 1 << 20;
  Buffer buffer(kBytes);
  uint64_t* data = buffer.data<uint64_t>();
  std::fill_n(data, kBytes / 8, 1);  // untouched pages would all be one
  volatile uint64_t sink = 0;
  const Seconds seconds = Measure(15, [&] {
    ParallelFor(kBytes / kPiece, 1, [&](int64_t begin, int64_t end) {
      uint64_t sum = 0;
      for (int64_t i = begin * kPiece / 8; i < end * kPiece / 8; i += 8) {
        __builtin_prefetch(data + i + 512);  // a page ahead: faster than without
        sum += data[i];                      // one word brings its whole line
      }
      sink = sum;
    });
  });
  return kBytes / seconds.best;
}

#if defined(__x86_64__)
constexpr int64_t kPeakRounds = 500000;
constexpr int kChains = 12;  // independent ones, more than units times latency

// kChains instructions `op` on registers of `kind`, whose values do not matter.
#define MLF_STEP(op, kind, i) op " %%" kind "12, %%" kind "13, %%" kind #i "\n"
#define MLF_FOUR_STEPS(op, kind, a, b, c, d) \
  MLF_STEP(op, kind, a) MLF_STEP(op, kind, b) MLF_STEP(op, kind, c) MLF_STEP(op, kind, d)
#define MLF_CLOBBERED                                                                      \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define MLF_ROUNDS(op, kind)                                                               \
  asm volatile("vzeroall" ::: MLF_CLOBBERED);                                              \
  for (int64_t i = 0; i < kPeakRounds; ++i) {                                              \
    asm volatile(MLF_FOUR_STEPS(op, kind, 0, 1, 2, 3) MLF_FOUR_STEPS(op, kind, 4, 5, 6, 7) \
                     MLF_FOUR_STEPS(op, kind, 8, 9, 10, 11)::                              \
                         : MLF_CLOBBERED);                                                 \
  }

inline void FmaRounds512() { MLF_ROUNDS("vfmadd231ps", "zmm") }
inline void DotRounds512() { MLF_ROUNDS("vpdpbusd", "zmm") }
inline void FmaRounds256() { MLF_ROUNDS("vfmadd231ps", "ymm") }

/// Operations (a multiply and an add are two) per second of all threads together.
inline double RoundsPeak(void (*rounds)(), int64_t operations_per_round) {
  const int64_t threads = ThreadCount();
  const Seconds seconds =
      Measure(15, [&] { ParallelFor(threads, 1, [&](int64_t, int64_t) { rounds(); }); });
  return static_cast<double>(threads * kPeakRounds * operations_per_round) / seconds.best;
}
#endif

/// 0 where this program does not know how to measure the level in use.
inline double FloatPeak() {
#if defined(__x86_64__)
  if (CpuLevelInUse() == CpuLevel::kAvx512) return RoundsPeak(FmaRounds512, kChains * 16 * 2);
  if (CpuLevelInUse() == CpuLevel::kAvx2) return RoundsPeak(FmaRounds256, kChains * 8 * 2);
#endif
  return 0;
}
inline double BytePeak() {
#if defined(__x86_64__)
  if (CpuLevelInUse() == CpuLevel::kAvx512) return RoundsPeak(DotRounds512, kChains * 64 * 2);
#endif
  return 0;
}

}  // namespace mlf::bench
