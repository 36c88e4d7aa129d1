// One process-wide pool of persistent workers. Counterpart: thread_pool.h.
#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "base/interrupt.h"

namespace mlf {
namespace {

constexpr int kSpins = 4000;  // about 50 us: longer than the gaps between the kernels of one layer
thread_local int thread_limit = 0;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

using Body = FunctionRef<void(int64_t, int64_t)>;

struct Job {
  const Body* fn;
  int64_t n, grain;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error{};  // written by the thread that set `failed`

  void Fail() {
    if (!failed.exchange(true)) error = std::current_exception();
  }

  bool RunOne() {
    const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
    if (begin >= n || failed.load(std::memory_order_relaxed)) return false;
    (*fn)(begin, std::min(n, begin + grain));
    return true;
  }

  void Work() {
    try {
      while (RunOne()) {
      }
    } catch (...) {
      Fail();
    }
  }

  void WorkAndPoll() {
    // Kept over jobs: a forward pass is many short ones, and Ctrl-C must not wait for its end.
    static thread_local InterruptPoller poller;
    try {
      do {
        poller.Poll();
      } while (RunOne());
    } catch (...) {
      Fail();
    }
  }
};

class ThreadPool {
 public:
  explicit ThreadPool(int workers) : workers_(workers) {
    for (int i = 0; i < workers; ++i) std::thread(&ThreadPool::Loop, this, i).detach();
  }

  /// False, without running anything, when another caller holds the pool.
  bool TryRun(Job& job, int threads) {
    if (leased_.test_and_set(std::memory_order_acquire)) return false;
    const int helpers = std::min(workers_, threads - 1);
    job_ = &job;
    pending_.store(helpers, std::memory_order_relaxed);
    Signal(helpers);
    job.WorkAndPoll();
    while (pending_.load(std::memory_order_acquire) != 0) Pause();
    leased_.clear(std::memory_order_release);
    return true;
  }

 private:
  // One word holds the job's number and how many workers take part, so that a worker that sleeps
  // through a job it has no part in never looks at it.
  static constexpr uint64_t kHelperBits = 16;

  void Signal(int helpers) {
    const uint64_t number = (signal_.load(std::memory_order_relaxed) >> kHelperBits) + 1;
    signal_.store(number << kHelperBits | static_cast<uint64_t>(helpers),
                  std::memory_order_seq_cst);
    if (parked_.load(std::memory_order_seq_cst) == 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }

  uint64_t AwaitChange(uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      const uint64_t now = signal_.load(std::memory_order_acquire);
      if (now != seen) return now;
      Pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    parked_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return signal_.load(std::memory_order_seq_cst) != seen; });
    parked_.fetch_sub(1, std::memory_order_relaxed);
    return signal_.load(std::memory_order_acquire);
  }

  void Loop(int index) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);  // signals belong to the host program's threads
    for (uint64_t seen = 0;;) {
      seen = AwaitChange(seen);
      if (index >= static_cast<int>(seen & ((1 << kHelperBits) - 1))) continue;
      job_->Work();
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int workers_;
  std::atomic_flag leased_ = ATOMIC_FLAG_INIT;
  Job* job_ = nullptr;
  std::atomic<uint64_t> signal_{0};
  std::atomic<int> pending_{0}, parked_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// The pool outlives everything (its workers are detached), and a forked child, which has no
// workers, builds its own.
std::atomic<ThreadPool*> pool{nullptr};
std::mutex pool_mutex;

ThreadPool& Pool() {
  ThreadPool* p = pool.load(std::memory_order_acquire);
  if (p != nullptr) return *p;
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (pool.load(std::memory_order_relaxed) == nullptr) {
    [[maybe_unused]] static const int registered =
        pthread_atfork([] { pool_mutex.lock(); }, [] { pool_mutex.unlock(); },
                       [] {
                         pool.store(nullptr, std::memory_order_relaxed);
                         pool_mutex.unlock();
                       });
    pool.store(new ThreadPool(AvailableCpus() - 1), std::memory_order_release);
  }
  return *pool.load(std::memory_order_relaxed);
}

}  // namespace

int AvailableCpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0)
    return std::max(1u, std::thread::hardware_concurrency());
  return std::max(1, CPU_COUNT(&set));
}

int ThreadCount() {
  static const int available = AvailableCpus();
  return thread_limit == 0 ? available : std::min(available, thread_limit);
}

ThreadLimit::ThreadLimit(int n_threads) : previous_(thread_limit) {
  if (n_threads > 0) thread_limit = n_threads;
}
ThreadLimit::~ThreadLimit() { thread_limit = previous_; }

void ParallelFor(int64_t n, int64_t grain, Body fn) {
  if (n <= 0) return;
  Job job{&fn, n, std::max<int64_t>(1, grain)};
  const int threads =
      static_cast<int>(std::min<int64_t>(ThreadCount(), (n + job.grain - 1) / job.grain));
  if (threads <= 1 || !Pool().TryRun(job, threads)) job.WorkAndPoll();
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace mlf
