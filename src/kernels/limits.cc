// What this machine can do at most. Counterpart: limits.h.
#include "kernels/limits.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/thread_pool.h"
#include "kernels/limits_simd.h"

namespace mlf {
namespace {

// Small enough that threads end together, large enough that handing them out takes no time.
constexpr int64_t kChunkBytes = int64_t{512} << 10;
constexpr int64_t kChunkRounds = 2000, kChunksPerThread = 100;  // of arithmetic: some 5 ms
constexpr int kCopyTrials = 15;

int64_t MultiplyFloats() {
  float sum;
  return multiply_add_floats(kChunkRounds, &sum);
}
int64_t MultiplyBytes() {
  int32_t sum;
  return multiply_add_bytes(kChunkRounds, &sum);
}

/// Where threads wait for each other, so that a worker that the system is slow to wake is not
/// missing from what all do together; after a while without.
class Meeting {
 public:
  explicit Meeting(int threads) : threads_(threads) {}

  void Join() {
    arrived_.fetch_add(1, std::memory_order_relaxed);
    while (arrived_.load(std::memory_order_relaxed) < threads_ && Clock::now() < deadline_) {
    }
    Clock::rep none = 0;
    over_.compare_exchange_strong(none, Clock::now().time_since_epoch().count());
  }
  /// Since the first thread went on.
  double Seconds() const {
    const Clock::time_point over{Clock::duration(over_.load())};
    return std::chrono::duration<double>(Clock::now() - over).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  int threads_;
  Clock::time_point deadline_ = Clock::now() + std::chrono::milliseconds(20);
  std::atomic<int> arrived_{0};
  std::atomic<Clock::rep> over_{0};
};

/// Seconds that all threads take for the chunks, right after they have done them once: what comes
/// after a rest may be faster than what a machine keeps up.
template <typename Fn>
double Seconds(int64_t chunks, Fn fn) {
  // On a busy machine, who has slept is not the next to be interrupted.
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  const int threads = ThreadCount();
  const auto work = [&](int64_t thread) {
    const int64_t end = chunks * (thread + 1) / threads;
    for (int64_t chunk = chunks * thread / threads; chunk < end; ++chunk) fn(chunk);
  };
  ParallelFor(threads, 1, [&](int64_t thread, int64_t) { work(thread); });
  Meeting meeting(threads);
  ParallelFor(threads, 1, [&](int64_t thread, int64_t) {
    meeting.Join();
    work(thread);
  });
  return meeting.Seconds();
}

double OpsPerSecond(int n_threads, int64_t (*multiply)()) {
  const ThreadLimit limit(n_threads);
  const int64_t chunks = kChunksPerThread * ThreadCount();
  const double ops = static_cast<double>(chunks * multiply());
  return ops / Seconds(chunks, [&](int64_t) { multiply(); });
}

void CopyPlain(uint8_t* to, const uint8_t* from, int64_t bytes) { std::memcpy(to, from, bytes); }
void CopyStreaming(uint8_t* to, const uint8_t* from, int64_t bytes) {
  stream_lines(to, from, bytes);
}

int64_t CheckedBytes(int64_t bytes) {
  if (bytes < MachineLimits::kLeastBytes) {
    TVM_FFI_THROW(ValueError) << "MachineLimits: bytes is " << bytes << ", expected at least "
                              << MachineLimits::kLeastBytes;
  }
  return bytes;
}

}  // namespace

MachineLimits::MachineLimits(int n_threads, int64_t bytes, bool huge_pages)
    : n_threads_(n_threads),
      memory_(Buffer::For("the working set of MachineLimits", CheckedBytes(bytes))) {
  madvise(memory_.data(), bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  // Untouched pages would all be one.
  const ThreadLimit limit(n_threads_);
  ParallelFor(bytes, kChunkBytes, [&](int64_t begin, int64_t end) {
    std::memset(memory_.data() + begin, 1, end - begin);
  });
  double plain = 0, streaming = 0;
  for (int i = 0; i < kCopyTrials; ++i) {
    plain = std::max(plain, CopySpeed(CopyPlain));
    streaming = std::max(streaming, CopySpeed(CopyStreaming));
  }
  copy_ = streaming > plain ? CopyStreaming : CopyPlain;
}

double MachineLimits::ReadBytesPerSecond() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const ThreadLimit limit(n_threads_);
  const int64_t chunks = memory_.bytes() / kChunkBytes;
  const double seconds = Seconds(chunks, [&](int64_t chunk) {
    read_lines(memory_.data() + chunk * kChunkBytes, kChunkBytes);
  });
  return static_cast<double>(chunks * kChunkBytes) / seconds;
}

double MachineLimits::CopySpeed(CopyFn* copy) const {
  const ThreadLimit limit(n_threads_);
  const int64_t chunks = memory_.bytes() / 2 / kChunkBytes;
  uint8_t* const from = memory_.data();
  uint8_t* const to = from + chunks * kChunkBytes;
  const double seconds = Seconds(chunks, [&](int64_t chunk) {
    copy(to + chunk * kChunkBytes, from + chunk * kChunkBytes, kChunkBytes);
  });
  return static_cast<double>(2 * chunks * kChunkBytes) / seconds;
}

double MachineLimits::CopyBytesPerSecond() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return CopySpeed(copy_);
}

double MachineLimits::FloatOpsPerSecond() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return OpsPerSecond(n_threads_, MultiplyFloats);
}

double MachineLimits::ByteOpsPerSecond() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return OpsPerSecond(n_threads_, MultiplyBytes);
}

}  // namespace mlf
