// What measures a CPU's limits. Counterparts: limits_simd.h, limits.cc.
#include "kernels/limits_simd.h"

#include "base/simd.h"
#include "kernels/block_dot.h"

namespace mlf::MLF_LEVEL {
namespace {

constexpr int kSteps = 8;          // of a round: lines of a block of 8-bit weights
constexpr int kAheadBytes = 4096;  // prefetch: a page ahead is faster than none, or half of one
using Dot = BlockDot</*kMax=*/15, /*kOffset=*/0, kSteps>;

// Independent sums, of 16 lanes each: at least units times latency, as far as registers go.
#if defined(__AVX512F__)
constexpr int kFloatSums = 12, kByteSums = 12;
#elif defined(__AVX2__)
constexpr int kFloatSums = 6, kByteSums = 3;  // a Dot holds two registers per part here
#elif defined(__aarch64__)
constexpr int kFloatSums = 5, kByteSums = 4;
#else
constexpr int kFloatSums = 2, kByteSums = 1;
#endif

/// No instruction, but the compiler must take the register for a new value, and so cannot move out
/// of the loop, or do once for many, what is computed from it.
template <typename V>
MLF_INLINE void Renew(V& v) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(v));
#else
  asm volatile("" : "+w"(v));
#endif
}
template <typename V>
MLF_INLINE void RenewAll(V& v) {
#pragma GCC unroll 4
  for (int p = 0; p < kParts; ++p) Renew(v.part[p]);
}

}  // namespace

int64_t MultiplyAddFloats(int64_t rounds, float* sum) {
  F32 sums[kFloatSums];
#pragma GCC unroll 16
  for (int i = 0; i < kFloatSums; ++i) sums[i] = Zero();
  F32 w = Set(1.f);
  RenewAll(w);
  NativeF32 x = NativeF32{} + 1.f;
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 8
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
      for (int i = 0; i < kFloatSums; ++i) {
        Renew(x);
        const F32 same = Map<F32>([&](int) { return x; });
        sums[i] = Fma(w, same, sums[i]);
      }
    }
  }
  F32 total = sums[0];
#pragma GCC unroll 16
  for (int i = 1; i < kFloatSums; ++i) total = total + sums[i];
  *sum = ReduceAdd(total);
  return rounds * kSteps * kFloatSums * kLanes * 2;
}

int64_t MultiplyAddBytes(int64_t rounds, int32_t* sum) {
  Dot dots[kByteSums];
#pragma GCC unroll 16
  for (int i = 0; i < kByteSums; ++i) dots[i].Start(0);
  Bytes w = Map<Bytes>([](int) { return NativeU8{} + uint8_t{1}; });
  RenewAll(w);
  NativeU8 x = NativeU8{} + uint8_t{1};
  for (int64_t round = 0; round < rounds; ++round) {
// Not unrolled: compilers would put all products first, more than there are registers.
#pragma GCC unroll 1
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
      for (int i = 0; i < kByteSums; ++i) {
        Renew(x);
        dots[i].Add(w, x);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kByteSums; ++i) dots[i].EndLines(kSteps);
  }
  I32 total = dots[0].Total(0);
#pragma GCC unroll 16
  for (int i = 1; i < kByteSums; ++i) total = total + dots[i].Total(0);
  *sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) *sum += total.part[lane / kWidth][lane % kWidth];
  return rounds * kSteps * kByteSums * kLanes * kLaneBytes * 2;
}

uint32_t ReadLines(const uint8_t* from, int64_t bytes) {
  I32 all = SplatI32(0);
  for (int64_t i = 0; i < bytes; i += kLineBytes) {
    __builtin_prefetch(from + i + kAheadBytes);
    const Bytes line = Bytes::Load(from + i);
    all = Map<I32>([&](int p) { return all.part[p] ^ (NativeI32)line.part[p]; });
  }
  uint32_t word = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    word ^= static_cast<uint32_t>(all.part[lane / kWidth][lane % kWidth]);
  }
  return word;
}

void StreamLines(uint8_t* to, const uint8_t* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLineBytes) {
    __builtin_prefetch(from + i + kAheadBytes);
    const Bytes line = Bytes::Load(from + i);
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      auto* target = to + i + p * static_cast<int>(sizeof(NativeU8));
#if defined(__AVX512F__)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(target), (__m512i)line.part[p]);
#elif defined(__AVX2__)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(target), (__m256i)line.part[p]);
#elif defined(__x86_64__)
      _mm_stream_si128(reinterpret_cast<__m128i*>(target), (__m128i)line.part[p]);
#else
      std::memcpy(target, &line.part[p], sizeof line.part[p]);
#endif
    }
  }
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace mlf::MLF_LEVEL
