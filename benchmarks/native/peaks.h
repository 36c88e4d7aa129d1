// What this machine can do at most (the best of several runs): reads and copies of memory,
// multiply-adds of floats and bytes. Stands alone, so that limits.cc compiles without the library.
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

/// Best seconds of several rounds, in each of which every thread calls fn(thread): from the first
/// to begin until the last to end.
template <typename Fn>
double BestSeconds(int threads, Fn fn) {
  constexpr int kRounds = 15;
  struct alignas(64) Times {
    double begin, end;
  };
  std::vector<Times> times(threads);
  double best = 1e300;
  std::barrier together(threads);
  const auto work = [&](int thread) {
    for (int i = 0; i < kRounds; ++i) {
      together.arrive_and_wait();
      times[thread].begin = Now();
      fn(thread);
      times[thread].end = Now();
      together.arrive_and_wait();
      if (thread != 0) continue;
      double begin = times[0].begin, end = times[0].end;
      for (const Times& t : times) {
        begin = std::min(begin, t.begin);
        end = std::max(end, t.end);
      }
      best = std::min(best, end - begin);
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& other : others) other.join();
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

 private:
  char* data_;
  int64_t bytes_;
};

/// Bytes of one thread's part of `bytes`, whole pages.
inline int64_t PartBytes(int64_t bytes, int threads) { return bytes / threads / 4096 * 4096; }

/// Bytes per second that all threads read from memory together.
inline double ReadPeak(int threads, int64_t bytes, bool huge) {
  const Memory memory(bytes, huge);
  const int64_t part = PartBytes(bytes, threads), words = part / 8;
  volatile uint64_t sink = 0;
  const double seconds = BestSeconds(threads, [&](int thread) {
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

/// Bytes per second, read and written, of a copy by all threads together; `bytes` are both halves.
inline double CopyPeak(int threads, int64_t bytes, bool huge) {
  const Memory from(bytes / 2, huge), to(bytes / 2, huge);
  const int64_t part = PartBytes(bytes / 2, threads);
  const auto copy = [&](auto by) {
    return BestSeconds(threads, [&](int thread) {
      by(to.data() + thread * part, from.data() + thread * part, part);
    });
  };
  const double plain = copy([](char* t, const char* f, int64_t n) { std::memcpy(t, f, n); });
  return static_cast<double>(2 * part * threads) / std::min(plain, copy(StreamCopy));
}

#if defined(__x86_64__)
constexpr int64_t kPeakRounds = 2'000'000;  // 5 ms: starting together is no part of it
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
inline double RoundsPeak(int threads, void (*rounds)(), int64_t operations_per_round) {
  const double seconds = BestSeconds(threads, [&](int) { rounds(); });
  return static_cast<double>(threads * kPeakRounds * operations_per_round) / seconds;
}
#endif

/// Of registers of `lanes` floats; 0 where this program does not know how to measure them.
inline double FloatPeak([[maybe_unused]] int threads, [[maybe_unused]] int lanes) {
#if defined(__x86_64__)
  if (lanes == 16) return RoundsPeak(threads, FmaRounds512, kChains * 16 * 2);
  if (lanes == 8) return RoundsPeak(threads, FmaRounds256, kChains * 8 * 2);
#endif
  return 0;
}
inline double BytePeak([[maybe_unused]] int threads, [[maybe_unused]] int lanes) {
#if defined(__x86_64__)
  if (lanes == 16) return RoundsPeak(threads, DotRounds512, kChains * 64 * 2);
#endif
  return 0;
}

}  // namespace mlf::bench
