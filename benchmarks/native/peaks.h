// What this machine can do at most: reads and copies of memory, multiply-adds of floats and bytes.
// Stands alone, so that limits.cc compiles without the library.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

/// Seconds of a round in which every thread calls fn(thread): from the first to begin until the
/// last to end.
template <typename Fn>
double RoundSeconds(int threads, Fn fn) {
  struct alignas(64) Times {
    double begin, end;
  };
  std::vector<Times> times(threads);
  std::barrier together(threads);
  const auto work = [&](int thread) {
    together.arrive_and_wait();
    times[thread].begin = Now();
    fn(thread);
    times[thread].end = Now();
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& other : others) other.join();
  double begin = times[0].begin, end = times[0].end;
  for (const Times& t : times) {
    begin = std::min(begin, t.begin);
    end = std::max(end, t.end);
  }
  return end - begin;
}

/// The best of what `round` gives in several calls.
template <typename Fn>
double Best(Fn round) {
  double best = 0;
  for (int i = 0; i < 15; ++i) best = std::max(best, round());
  return best;
}

/// Memory that has been written to (untouched pages would all be one), on pages of 2 MiB where
/// `huge` and the system has them.
class Memory {
 public:
  Memory(int64_t bytes, bool huge) : bytes_(bytes) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      std::perror("mmap");
      std::exit(1);
    }
    madvise(data, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    std::memset(data, 1, bytes);
    data_ = static_cast<char*>(data);
  }
  ~Memory() { munmap(data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  char* data_;
  int64_t bytes_;
};

/// Bytes of one thread's part of `bytes`, whole pages.
inline int64_t PartBytes(int64_t bytes, int threads) { return bytes / threads / 4096 * 4096; }

/// Bytes per second at which all threads read memory together.
inline double ReadSpeed(int threads, const Memory& memory) {
  const int64_t part = PartBytes(memory.bytes(), threads), words = part / 8;
  volatile uint64_t sink = 0;
  const double seconds = RoundSeconds(threads, [&](int thread) {
    const auto* data = reinterpret_cast<const uint64_t*>(memory.data() + thread * part);
    uint64_t sum = 0;
    for (int64_t i = 0; i < words; i += 8) {
      __builtin_prefetch(data + i + 512);  // a page ahead: faster than without
      sum += data[i];                      // one word brings its whole line
    }
    sink = sum;
  });
  return static_cast<double>(part * threads) / seconds;
}

/// Copies past the caches: the target's lines are not read first.
inline void StreamCopy(char* to, const char* from, int64_t bytes) {
#if defined(__x86_64__)
  for (int64_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(from + i + 4096);
    const auto* source = reinterpret_cast<const __m128i*>(from + i);
    auto* target = reinterpret_cast<__m128i*>(to + i);
    const __m128i a = _mm_load_si128(source), b = _mm_load_si128(source + 1),
                  c = _mm_load_si128(source + 2), d = _mm_load_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
  _mm_sfence();
#else
  std::memcpy(to, from, bytes);
#endif
}

inline void PlainCopy(char* to, const char* from, int64_t bytes) { std::memcpy(to, from, bytes); }

/// Bytes per second, read and written, of a copy from one half to the other by all threads.
inline double CopySpeed(int threads, const Memory& memory, decltype(PlainCopy)* copy) {
  const int64_t half = memory.bytes() / 2, part = PartBytes(half, threads);
  const double seconds = RoundSeconds(threads, [&](int thread) {
    copy(memory.data() + half + thread * part, memory.data() + thread * part, part);
  });
  return static_cast<double>(2 * part * threads) / seconds;
}

#if defined(__x86_64__)
constexpr int64_t kPeakRounds = 2'000'000;  // 5 ms: starting together is no part of it
constexpr int kChains = 12;                 // independent ones, more than units times latency

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
inline double RoundsSpeed(int threads, void (*rounds)(), int64_t operations_per_round) {
  const double seconds = RoundSeconds(threads, [&](int) { rounds(); });
  return static_cast<double>(threads * kPeakRounds * operations_per_round) / seconds;
}
#endif

/// Of registers of `lanes` floats; 0 where this program does not know how to measure them.
inline double FloatSpeed([[maybe_unused]] int threads, [[maybe_unused]] int lanes) {
#if defined(__x86_64__)
  if (lanes == 16) return RoundsSpeed(threads, FmaRounds512, kChains * 16 * 2);
  if (lanes == 8) return RoundsSpeed(threads, FmaRounds256, kChains * 8 * 2);
#endif
  return 0;
}
inline double ByteSpeed([[maybe_unused]] int threads, [[maybe_unused]] int lanes) {
#if defined(__x86_64__)
  if (lanes == 16) return RoundsSpeed(threads, DotRounds512, kChains * 64 * 2);
#endif
  return 0;
}

}  // namespace mlf::bench
