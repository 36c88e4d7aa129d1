// Tests of src/base/thread_pool: every index once, shares, exceptions, callers side by side, fork.
#include "base/thread_pool.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace mlf {
namespace {

/// Sums 0 … n − 1 in parallel and checks that every index came once.
bool CountsEvery(int64_t n, int64_t grain) {
  std::vector<std::atomic<int>> seen(n);
  ParallelFor(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) seen[i].fetch_add(1, std::memory_order_relaxed);
  });
  for (const auto& count : seen) {
    if (count.load() != 1) return false;
  }
  return true;
}

void TestCounts() {
  for (const int64_t n : {0, 1, 2, 7, 64, 1000}) {
    for (const int64_t grain : {-1, 0, 1, 3, 1000, 5000}) MLF_EXPECT(CountsEvery(n, grain));
  }
  ParallelFor(-5, 1, [](int64_t, int64_t) { MLF_EXPECT(false); });
  ParallelFor(10, 4, [](int64_t begin, int64_t end) {
    MLF_EXPECT(begin >= 0 && begin < end && end <= std::min<int64_t>(10, begin + 4));
  });
}

void TestLimit() {
  const int all = ThreadCount();
  MLF_EXPECT(all == AvailableCpus());
  {
    const ThreadLimit one(1);
    MLF_EXPECT(ThreadCount() == 1);
    std::set<std::thread::id> ids;
    ParallelFor(100, 1, [&](int64_t, int64_t) { ids.insert(std::this_thread::get_id()); });
    MLF_EXPECT(ids.size() == 1 && *ids.begin() == std::this_thread::get_id());
    const ThreadLimit many(100000);
    MLF_EXPECT(ThreadCount() == all);
  }
  MLF_EXPECT(ThreadCount() == all);
}

/// Whichever thread throws, the caller gets it, once all others are out.
void TestExceptions() {
  for (int times = 0; times < 200; ++times) {
    const int64_t bad = times % 50;
    std::atomic<int> inside{0};
    const auto run = [&] {
      ParallelFor(50, 1, [&](int64_t begin, int64_t) {
        inside.fetch_add(1);
        if (begin >= bad) {
          inside.fetch_sub(1);
          TVM_FFI_THROW(IndexError) << "of chunk " << begin;
        }
        inside.fetch_sub(1);
      });
    };
    MLF_EXPECT_THROWS(run(), "IndexError", "of chunk ");
    MLF_EXPECT(inside.load() == 0);
  }
  MLF_EXPECT(CountsEvery(1000, 1));
}

/// A worker's exception, not only the caller's: the caller waits in its chunk until one has thrown.
void TestWorkerException() {
  if (AvailableCpus() < 2) return;
  const auto caller = std::this_thread::get_id();
  for (int times = 0; times < 20; ++times) {
    std::atomic<bool> thrown{false};
    const auto run = [&] {
      ParallelFor(100, 1, [&](int64_t, int64_t) {
        if (std::this_thread::get_id() != caller) {
          thrown.store(true);
          TVM_FFI_THROW(KeyError) << "of a worker";
        }
        while (!thrown.load()) std::this_thread::yield();
      });
    };
    MLF_EXPECT_THROWS(run(), "KeyError", "of a worker");
  }
}

/// Every thread begins with its own part of the chunks and then takes of another's: both wait in
/// their first chunk for the other to be in its own, the caller for the rest to be done too.
void TestShares() {
  if (AvailableCpus() < 2) return;
  const ThreadLimit two(2);
  const auto caller = std::this_thread::get_id();
  for (int times = 0; times < 20; ++times) {
    std::vector<int64_t> of_worker;  // written by it alone
    std::atomic<int> done{0};
    std::atomic<bool> called{false};
    ParallelFor(8, 1, [&](int64_t begin, int64_t) {
      if (std::this_thread::get_id() == caller) {
        MLF_EXPECT(begin == 0);
        called.store(true);
        while (done.load() < 7) std::this_thread::yield();
      } else {
        while (!called.load()) std::this_thread::yield();
        of_worker.push_back(begin);
        done.fetch_add(1);
      }
    });
    MLF_EXPECT((of_worker == std::vector<int64_t>{4, 5, 6, 7, 1, 2, 3}));
  }
}

/// What a job's sleeping worker is woken for, after it has gone to sleep.
void RunAfterSleep() {
  usleep(20'000);
  MLF_EXPECT(CountsEvery(64, 1));
}

void ForEveryThread(const std::function<void(pid_t)>& fn) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    fn(static_cast<pid_t>(std::stol(task.path().filename().string())));
  }
}

bool EveryThreadMayUse(const cpu_set_t& cpus) {
  bool all = true;
  ForEveryThread([&](pid_t tid) {
    cpu_set_t found;
    all &= sched_getaffinity(tid, sizeof(found), &found) == 0 && CPU_EQUAL(&found, &cpus);
  });
  return all;
}

/// Who binds the threads to CPUs from outside (taskset) is not overruled by the pool, which would
/// else keep its workers off the caller's CPU.
void TestBoundFromOutside() {
  if (AvailableCpus() < 2) return;
  cpu_set_t all, one;
  MLF_EXPECT(sched_getaffinity(0, sizeof(all), &all) == 0);
  RunAfterSleep();
  // A worker that has not run since it was woken is still kept off one CPU: with two of them, that
  // looks like the binding below.
  for (int times = 0; times < 1000 && !EveryThreadMayUse(all); ++times) usleep(10'000);
  MLF_EXPECT(EveryThreadMayUse(all));
  int cpu = 0;
  while (!CPU_ISSET(cpu, &all)) ++cpu;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  ForEveryThread([&](pid_t tid) { sched_setaffinity(tid, sizeof(one), &one); });
  for (int times = 0; times < 5; ++times) RunAfterSleep();
  MLF_EXPECT(EveryThreadMayUse(one));
  ForEveryThread([&](pid_t tid) { sched_setaffinity(tid, sizeof(all), &all); });
}

/// The pool is held by the outer loop: inner ones run on the thread that asks.
void TestNested() {
  std::vector<std::atomic<int>> seen(400);
  ParallelFor(20, 1, [&](int64_t outer, int64_t) {
    const auto self = std::this_thread::get_id();
    ParallelFor(20, 1, [&](int64_t begin, int64_t end) {
      MLF_EXPECT(std::this_thread::get_id() == self);
      for (int64_t i = begin; i < end; ++i) seen[outer * 20 + i].fetch_add(1);
    });
  });
  for (const auto& count : seen) MLF_EXPECT(count.load() == 1);
}

void TestManyCallers() {
  std::vector<std::thread> callers;
  std::atomic<int> right{0};
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&, t] {
      for (int times = 0; times < 300; ++times) right += CountsEvery(10 + 7 * t, 1 + t);
    });
  }
  for (std::thread& caller : callers) caller.join();
  MLF_EXPECT(right.load() == 1200);
}

#if !defined(__SANITIZE_THREAD__)  // which does not follow threads that a child starts
int ChildStatus(pid_t child) {
  int status = -1;
  MLF_EXPECT(waitpid(child, &status, 0) == child);
  return status;
}

/// A child has none of its parent's workers and starts its own.
void TestFork() {
  for (int times = 0; times < 5; ++times) {
    MLF_EXPECT(CountsEvery(100, 1));
    const pid_t child = fork();
    MLF_EXPECT(child >= 0);
    if (child == 0) {
      alarm(60);
      _exit(CountsEvery(1000, 1) && CountsEvery(1000, 1) ? 0 : 1);
    }
    MLF_EXPECT(ChildStatus(child) == 0 && CountsEvery(100, 1));
  }
}

/// Without memory of its own: a sanitizer's heap may be locked in a child.
bool CountsAll(int64_t n) {
  std::atomic<int64_t> sum{0};
  ParallelFor(n, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
  return sum.load() == n;
}

/// Forked while another thread keeps the pool busy.
void TestForkWhileBusy() {
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop.load()) MLF_EXPECT(CountsAll(200));
  });
  for (int times = 0; times < 10; ++times) {
    const pid_t child = fork();
    MLF_EXPECT(child >= 0);
    if (child == 0) {
      alarm(60);
      _exit(CountsAll(1000) ? 0 : 1);
    }
    MLF_EXPECT(ChildStatus(child) == 0);
  }
  stop.store(true);
  busy.join();
}
#else
void TestFork() {}
void TestForkWhileBusy() {}
#endif

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestCounts();
  mlf::TestLimit();
  mlf::TestExceptions();
  mlf::TestWorkerException();
  mlf::TestShares();
  mlf::TestBoundFromOutside();
  mlf::TestNested();
  mlf::TestManyCallers();
  // qemu's own bookkeeping does not survive the fork of a process with threads.
  if (std::getenv("MLF_TEST_EMULATED") != nullptr) {
    std::fprintf(stderr, "fork skipped: MLF_TEST_EMULATED is set\n");
    return 0;
  }
  mlf::TestFork();
  mlf::TestForkWhileBusy();
  return 0;
}
