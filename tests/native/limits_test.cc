// Limits of the machine: the loops do all that they count, measurements are sane, at every level.
#include "kernels/limits.h"

#include <cstring>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "cpu_levels.h"
#include "kernels/limits_simd.h"

namespace mlf {
namespace {

void TestArithmetic() {
  for (const int64_t rounds : {0, 1, 2, 7, 1000}) {
    float floats = -1;
    const int64_t float_ops = multiply_add_floats(rounds, &floats);
    MLF_EXPECT(float_ops % 32 == 0 && (float_ops > 0) == (rounds > 0));
    MLF_EXPECT(static_cast<double>(floats) * 2 == static_cast<double>(float_ops));
    int32_t bytes = -1;
    const int64_t byte_ops = multiply_add_bytes(rounds, &bytes);
    MLF_EXPECT(byte_ops % 128 == 0 && (byte_ops > 0) == (rounds > 0));
    MLF_EXPECT(int64_t{bytes} * 2 == byte_ops);
  }
}

void TestMemoryLoops() {
  constexpr int64_t kMost = 64 * 33;
  alignas(64) static uint8_t from[kMost];
  uint32_t random = 1;
  for (uint8_t& b : from) b = (random = random * 1664525 + 1013904223) >> 24;
  for (const int64_t bytes : {int64_t{0}, int64_t{64}, int64_t{128}, kMost - 64, kMost}) {
    uint32_t want = 0;
    for (int64_t i = 0; i < bytes; i += 4) {
      uint32_t word;
      std::memcpy(&word, from + i, 4);
      want ^= word;
    }
    MLF_EXPECT(read_lines(from, bytes) == want);
    alignas(64) uint8_t to[kMost + 64] = {};
    stream_lines(to, from, bytes);
    MLF_EXPECT(std::memcmp(to, from, bytes) == 0);
    for (int64_t i = bytes; i < kMost + 64; ++i) MLF_EXPECT(to[i] == 0);
  }
}

void ExpectSane(const MachineLimits& limits) {
  for (const double speed : {limits.ReadBytesPerSecond(), limits.CopyBytesPerSecond(),
                             limits.FloatOpsPerSecond(), limits.ByteOpsPerSecond()}) {
    MLF_EXPECT(speed > 1e6 && speed < 1e18);
  }
}

void TestMachineLimits() {
  for (const bool huge : {false, true}) ExpectSane(MachineLimits(1, 5 << 20, huge));
  const MachineLimits shared(0, MachineLimits::kLeastBytes, true);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&] { ExpectSane(shared); });
  for (std::thread& thread : threads) thread.join();
  MLF_EXPECT_THROWS(MachineLimits(1, MachineLimits::kLeastBytes - 1, true), "ValueError",
                    "bytes is 4194303, expected at least 4194304");
  MLF_EXPECT_THROWS(MachineLimits(1, int64_t{1} << 62, true), "MemoryError",
                    "the working set of MachineLimits");
}

void TestAll() {
  TestArithmetic();
  TestMemoryLoops();
  TestMachineLimits();
}

}  // namespace
}  // namespace mlf

int main() { return mlf::RunAtEveryLevel(mlf::TestAll); }
