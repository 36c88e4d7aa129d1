// One process-wide pool of persistent workers. Counterpart: thread_pool.h.
#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/interrupt.h"

namespace mlf {
namespace {

constexpr int kSpins = 4000;  // about 50 us: longer than the gaps between the kernels of one layer
constexpr int64_t kPartsOfGrain = 8;
thread_local int thread_limit = 0;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

using Body = FunctionRef<void(int64_t, int64_t)>;

/// What one thread begins with: [next, end) of a job, a chunk at a time.
struct alignas(64) Share {
  std::atomic<int64_t> next;
  int64_t end;
};

struct Job {
  const Body* fn;
  int64_t n, grain;
  Share* shares;  // one per thread that may take part: the caller's, then those of workers 1, 2, …
  int threads;
  std::atomic<bool> failed{false};
  std::exception_ptr error{};  // written by the thread that set `failed`

  /// Gives each thread the same part, the same one for jobs of the same size. Parts end at
  /// multiples of a fraction of `grain`: memory that two threads share is little, and aligned as
  /// chunks are.
  void Cut() {
    const int64_t unit = std::max<int64_t>(1, grain / kPartsOfGrain);
    for (int64_t t = 0, begin = 0; t < threads; ++t) {
      const int64_t end = t + 1 == threads ? n : n * (t + 1) / threads / unit * unit;
      shares[t].next.store(begin, std::memory_order_relaxed);
      shares[t].end = begin = end;
    }
  }

  void Fail() {
    if (!failed.exchange(true)) error = std::current_exception();
  }

  bool RunOne(Share& share) {
    if (share.next.load(std::memory_order_relaxed) >= share.end) return false;
    const int64_t begin = share.next.fetch_add(grain, std::memory_order_relaxed);
    if (begin >= share.end || failed.load(std::memory_order_relaxed)) return false;
    (*fn)(begin, std::min(share.end, begin + grain));
    return true;
  }

  /// The thread's own share, then what is left of the others'.
  template <typename Before>
  void Work(int self, Before before) {
    try {
      for (int i = 0; i < threads; ++i) {
        Share& share = shares[(self + i) % threads];
        do {
          before();
        } while (RunOne(share));
      }
    } catch (...) {
      Fail();
    }
  }

  void WorkAndPoll() {
    // Kept over jobs: a forward pass is many short ones, and Ctrl-C must not wait for its end.
    static thread_local InterruptPoller poller;
    Work(0, [] { poller.Poll(); });
  }
};

/// Wakes a worker away from the caller's CPU. Linux likes to wake a thread where its waker runs: in
/// a virtual machine, where an idle CPU looks taken because the host runs something else on it,
/// even always. The two would then share one CPU until the next balancing, milliseconds later.
///
/// For the time of its waking the worker is not allowed on that CPU. Whoever binds it to CPUs from
/// outside (taskset, a container's manager) has the last word.
class Placement {
 public:
  Placement() {
    CPU_ZERO(&all_);
    sched_getaffinity(0, sizeof(all_), &all_);
  }

  /// Of the caller, before it wakes the worker.
  void Avoid(pid_t worker, int cpu) {
    if (others_ || cpu < 0 || moved_.load(std::memory_order_acquire)) return;
    cpu_set_t found;
    others_ = sched_getaffinity(worker, sizeof(found), &found) != 0 || !CPU_EQUAL(&found, &all_);
    if (others_ || !CPU_ISSET(cpu, &all_) || CPU_COUNT(&all_) < 2) return;
    without_ = all_;
    CPU_CLR(cpu, &without_);
    if (sched_setaffinity(worker, sizeof(without_), &without_) != 0) return;
    moved_.store(true, std::memory_order_release);
  }

  /// Of the worker, once it has been awake.
  void Settle() {
    if (!moved_.load(std::memory_order_acquire)) return;
    cpu_set_t found;
    if (sched_getaffinity(0, sizeof(found), &found) == 0 && CPU_EQUAL(&found, &without_)) {
      sched_setaffinity(0, sizeof(all_), &all_);
    }
    moved_.store(false, std::memory_order_release);
  }

 private:
  cpu_set_t all_;                   // as the pool found it
  cpu_set_t without_;               // the caller's CPU; the worker's to read while moved_
  bool others_ = false;             // have placed the worker
  std::atomic<bool> moved_{false};  // until the worker settles
};

class ThreadPool {
 public:
  explicit ThreadPool(int workers) : shares_(workers + 1), workers_(workers + 1) {
    try {
      for (int i = 1; i <= workers; ++i) std::thread(&ThreadPool::Loop, this, i).detach();
    } catch (const std::system_error&) {
      // No more threads to be had: those that started, and callers themselves, do the work.
    }
  }

  /// False, without running anything, when another caller holds the pool.
  bool TryRun(Job& job) {
    if (leased_.test_and_set(std::memory_order_acquire)) return false;
    job.shares = shares_.data();
    job.threads = std::min(job.threads, static_cast<int>(shares_.size()));
    job.Cut();
    job_.store(&job, std::memory_order_seq_cst);
    Signal(job.threads);
    job.WorkAndPoll();
    // Workers that have not come yet find no job: on a busy machine nobody waits for a thread that
    // the system has not scheduled. Those inside finish their chunk.
    job_.store(nullptr, std::memory_order_seq_cst);
    while (inside_.load(std::memory_order_seq_cst) != 0) Pause();
    leased_.clear(std::memory_order_release);
    return true;
  }

 private:
  void Signal(int threads) {
    signal_.fetch_add(1, std::memory_order_seq_cst);
    if (parked_.load(std::memory_order_seq_cst) == 0) return;
    const int cpu = sched_getcpu();
    for (int i = 1; i < threads; ++i) {
      const pid_t tid = workers_[i].tid.load(std::memory_order_acquire);
      if (tid != 0) workers_[i].placement.Avoid(tid, cpu);
    }
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }

  void Join(int worker) {
    inside_.fetch_add(1, std::memory_order_seq_cst);
    Job* job = job_.load(std::memory_order_seq_cst);  // alive as long as this thread is inside
    if (job != nullptr && worker < job->threads) job->Work(worker, [] {});
    inside_.fetch_sub(1, std::memory_order_seq_cst);
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

  void Loop(int worker) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);  // signals belong to the host program's threads
    workers_[worker].tid.store(static_cast<pid_t>(syscall(SYS_gettid)), std::memory_order_release);
    for (uint64_t seen = 0;;) {
      seen = AwaitChange(seen);
      Join(worker);
      workers_[worker].placement.Settle();
    }
  }

  std::atomic_flag leased_ = ATOMIC_FLAG_INIT;
  std::atomic<Job*> job_{nullptr};
  std::atomic<uint64_t> signal_{0};  // counts jobs
  std::atomic<int> inside_{0}, parked_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  // The caller that holds the lease uses these; first come its own.
  std::vector<Share> shares_;
  struct Worker {
    std::atomic<pid_t> tid{0};
    Placement placement;
  };
  std::vector<Worker> workers_;
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
  grain = std::max<int64_t>(1, grain);
  const int64_t chunks = (n + grain - 1) / grain;
  const int threads = static_cast<int>(std::min<int64_t>(ThreadCount(), chunks));
  Job job{.fn = &fn, .n = n, .grain = grain, .shares = nullptr, .threads = threads};
  if (threads == 1 || !Pool().TryRun(job)) {
    Share all;
    job.shares = &all;
    job.threads = 1;
    job.Cut();
    job.WorkAndPoll();
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace mlf
