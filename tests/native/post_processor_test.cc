// Tests of src/runtime/post_processor: every call is answered once, whatever it does; workers that
// block or die are replaced.
#include "runtime/post_processor.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/rng.h"
#include "check.h"

namespace mlf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kLong = 60'000;  // a time-out that no test waits for

MaskEntries Entries(int64_t n, int64_t first_id = 0) {
  MaskEntries entries;
  for (int64_t i = 0; i < n; ++i) {
    entries.push_back(std::make_shared<MaskEntry>());
    entries.back()->request_id = first_id + i;
  }
  return entries;
}

/// Blocks whoever passes until it is opened.
class Gate {
 public:
  void Pass() {
    std::unique_lock<std::mutex> lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  void AwaitWaiting(int n) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ >= n; });
  }
  void Open() {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  bool open_ = false;
};

bool IsOpen(MaskEntry& entry) {
  const std::lock_guard<std::mutex> lock(entry.mutex);
  return entry.open;
}

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// ---- calls that come back -----------------------------------------------------------------------

void TestFills() {
  for (const int n_workers : {1, 2, 5}) {
    std::atomic<int> calls{0};
    PostProcessorPool pool(
        [&](const MaskEntries& entries) {
          ++calls;
          MLF_EXPECT(!entries.empty() && PostProcessorPool::IdOfWorker() != nullptr);
          for (const auto& entry : entries) {
            MLF_EXPECT(IsOpen(*entry));
            entry->temperature = static_cast<double>(entry->request_id);
          }
        },
        n_workers, kLong);
    for (const int64_t n : {0, 1, 2, 3, 4, 5, 17}) {
      calls = 0;
      const MaskEntries entries = Entries(n);
      pool.Submit(entries);
      MLF_EXPECT(pool.Wait() == std::vector<std::string>(n));
      MLF_EXPECT(calls.load() == std::min<int64_t>(n, n_workers));
      for (int64_t i = 0; i < n; ++i) {
        MLF_EXPECT(entries[i]->temperature == static_cast<double>(i) && !IsOpen(*entries[i]));
      }
    }
    MLF_EXPECT(PostProcessorPool::IdOfWorker() == nullptr);
  }
}

void TestErrors() {
  PostProcessorPool pool(
      [](const MaskEntries& entries) {
        for (const auto& entry : entries) {
          if (entry->request_id == 1) entry->error = "its own";
          if (entry->request_id == 2) throw std::runtime_error("of all");
          if (entry->request_id == 3) throw 3;
        }
      },
      1, kLong);
  const auto errors_of = [&](const MaskEntries& entries) {
    pool.Submit(entries);
    return pool.Wait();
  };
  MLF_EXPECT(errors_of(Entries(2)) == std::vector<std::string>({"", "its own"}));
  const auto errors = errors_of(Entries(3));
  MLF_EXPECT(errors.size() == 3);
  for (const std::string& error : errors) {
    MLF_EXPECT(error == "logits post-processor: of all");
  }
#ifdef __GLIBCXX__  // libc++ cannot tell it from the end of a thread
  MLF_EXPECT(Has(errors_of(Entries(1, 3)).front(), "threw something that is no exception"));
#endif
  MLF_EXPECT(errors_of(Entries(1)) == std::vector<std::string>({""}));
}

void TestNotify() {
  std::atomic<int> ends{0};
  {
    PostProcessorPool pool(
        [&](const MaskEntries& entries) {
          for (const auto& entry : entries) ends += entry->is_final ? 1 : 0;
          throw std::runtime_error("nobody hears it");
        },
        2, kLong);
    pool.Notify({});
    for (int64_t i = 0; i < 10; ++i) {
      const MaskEntries entries = Entries(1);
      entries.front()->is_final = true;
      pool.Notify(entries);
    }
  }  // what was told before is heard
  MLF_EXPECT(ends.load() == 10);
}

// ---- calls that do not --------------------------------------------------------------------------

constexpr double kShort = 50;
constexpr const char* kLate = "no answer after 50 ms";

/// The call must come back some time: the machine may be too slow for the time-out, but not always.
void ExpectServed(PostProcessorPool& pool, int64_t n, const std::string& error) {
  for (int tries = 0; tries < 100; ++tries) {
    pool.Submit(Entries(n, 1));
    if (pool.Wait() == std::vector<std::string>(n, error)) return;
  }
  MLF_EXPECT(false);
}

void TestBlockedWorkerIsReplaced() {
  const auto gate = std::make_shared<Gate>();
  PostProcessorPool pool(
      [gate](const MaskEntries& entries) {
        for (const auto& entry : entries) {
          if (entry->request_id == 0) gate->Pass();
          entry->error = "its own";
        }
      },
      2, kShort);
  for (int times = 0; times < 3; ++times) {
    const MaskEntries entries = Entries(2);
    const auto start = Clock::now();
    pool.Submit(entries);
    const auto errors = pool.Wait();
    MLF_EXPECT(Clock::now() - start >= std::chrono::milliseconds(50));
    MLF_EXPECT(Has(errors[0], kLate) && (errors[1] == "its own" || Has(errors[1], kLate)));
    ExpectServed(pool, 2, "its own");  // both workers are there again
    MLF_EXPECT(IsOpen(*entries[0]));   // and the call goes on
  }
  gate->Open();
}

void TestBlockedEndIsReplaced() {
  const auto gate = std::make_shared<Gate>();
  PostProcessorPool pool(
      [gate](const MaskEntries& entries) {
        if (entries.front()->is_final) gate->Pass();
      },
      1, kShort);
  const MaskEntries end = Entries(1);
  end.front()->is_final = true;
  pool.Notify(end);
  gate->AwaitWaiting(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  pool.Submit(Entries(1));
  MLF_EXPECT(Has(pool.Wait().front(), kLate));
  ExpectServed(pool, 1, "");
  gate->Open();
}

void TestKilledWorkerIsReplaced() {
  PostProcessorPool pool(
      [](const MaskEntries& entries) {
        if (entries.front()->request_id == 0) pthread_exit(nullptr);
      },
      1, kShort);
  for (int times = 0; times < 3; ++times) {
    pool.Submit(Entries(1));
    MLF_EXPECT(Has(pool.Wait().front(), kLate));
    ExpectServed(pool, 1, "");
  }
}

/// The pool does not wait longer than the time-out, and what its workers use outlives it.
void TestEndWithBlockedWorker() {
  const auto gate = std::make_shared<Gate>();
  std::atomic<bool> back{false};
  {
    PostProcessorPool pool(
        [gate, &back](const MaskEntries& entries) {
          gate->Pass();
          entries.front()->temperature = 2;
          back = true;
        },
        1, 50);
    pool.Notify(Entries(1));
    gate->AwaitWaiting(1);
  }
  gate->Open();
  while (!back.load()) std::this_thread::yield();
}

/// And it waits for calls that will come back.
void TestEndWaits() {
  std::atomic<int> calls{0};
  {
    PostProcessorPool pool(
        [&](const MaskEntries&) {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          ++calls;
        },
        2, kLong);
    pool.Submit(Entries(2));
    pool.Notify(Entries(1));
  }
  MLF_EXPECT(calls.load() == 3);
}

// ---- any mix ------------------------------------------------------------------------------------

void TestAnyMix() {
  std::atomic<int> calls{0}, ends{0};
  {
    PostProcessorPool pool(
        [&](const MaskEntries& entries) {
          ++calls;
          if (entries.front()->is_final) {  // of several steps, where a call took long
            ends += static_cast<int>(entries.size());
            return;
          }
          for (const auto& entry : entries) {
            if (entry->request_id % 11 == 0) std::this_thread::yield();
            if (entry->request_id % 13 == 0) entry->error = "no";
            entry->forced_tokens.push_back(entry->request_id);
          }
        },
        3, kLong);
    for (int64_t step = 0; step < 300; ++step) {
      const auto n = static_cast<int64_t>(RandomBits(3, step) % 9);
      const MaskEntries entries = Entries(n, step);
      pool.Submit(entries);
      const auto errors = pool.Wait();
      MLF_EXPECT(static_cast<int64_t>(errors.size()) == n);
      for (int64_t i = 0; i < n; ++i) {
        MLF_EXPECT((errors[i] == "no") == ((step + i) % 13 == 0));
        MLF_EXPECT(entries[i]->forced_tokens == std::vector<int64_t>({step + i}));
      }
      const MaskEntries end = Entries(1);
      end.front()->is_final = true;
      pool.Notify(end);
    }
  }
  MLF_EXPECT(ends.load() == 300 && calls.load() > 300);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestFills();
  mlf::TestErrors();
  mlf::TestNotify();
  mlf::TestBlockedWorkerIsReplaced();
  mlf::TestBlockedEndIsReplaced();
  mlf::TestKilledWorkerIsReplaced();
  mlf::TestEndWithBlockedWorker();
  mlf::TestEndWaits();
  mlf::TestAnyMix();
  return 0;
}
