// Tests of src/runtime/executor: its end, at any moment, from any thread, with work in flight.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "check.h"
#include "executor_ledger.h"
#include "executor_traffic.h"
#include "runtime/executor.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::Dice;
using test::Ledger;

#if defined(__SANITIZE_THREAD__)
constexpr int64_t kDefaultShutdowns = 200;
#else
constexpr int64_t kDefaultShutdowns = 1000;
#endif

std::shared_ptr<const Model> TheModel() {
  static const std::shared_ptr<const Model> model = test::LoadTiny();
  return model;
}

ExecutorConfig SmallConfig() {
  ExecutorConfig config;
  config.max_batch_size = 4;
  config.max_num_tokens = 32;
  config.kv_cache_tokens = 512;
  return config;
}

Request LongRequest() {
  Request request;
  request.tokens = {5, 6, 7};
  request.max_new_tokens = 200;
  request.ignore_eos = true;
  return request;
}

// ---- at any moment ------------------------------------------------------------------------------

/// One executor that is shut down while others use it.
class Moment {
 public:
  explicit Moment(uint64_t seed) : dice_(seed), seed_(seed) {
    executor_ = Executor::Create(TheModel(), SmallConfig(), [](const MaskEntries&) {});
  }

  void Run() {
    const int64_t microseconds = dice_.Below(1500);
    const bool drain = dice_.OneIn(2), twice = dice_.OneIn(2), dropped = dice_.OneIn(3);
    std::vector<std::thread> threads;
    threads.emplace_back([this, executor = executor_] { Send(*executor); });
    threads.emplace_back([this, executor = executor_] { Read(*executor); });
    threads.emplace_back([this, executor = executor_] { Cancel(*executor); });
    std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
    if (dropped) {
      executor_.reset();  // the last of its users to end shuts it down
    } else {
      if (twice) threads.emplace_back([e = executor_, drain] { e->Shutdown(!drain); });
      executor_->Shutdown(drain);
      MLF_EXPECT_THROWS(executor_->Enqueue(LongRequest()), "RuntimeError", "is shut down");
      MLF_EXPECT(!executor_->CanEnqueue());
    }
    stop_ = true;
    for (std::thread& thread : threads) thread.join();
    if (!dropped) CheckEnd();
  }

 private:
  void CheckEnd() {
    // What is over can still be read, and nothing else will come.
    test::ReadAll(*executor_, ledger_);
    ledger_.Settle();
    MLF_EXPECT(executor_->Await(std::nullopt, std::nullopt).empty());
    test::ExpectIdle(*executor_);
  }

  void Send(Executor& executor) {
    for (uint64_t i = 0; !stop_ && i < 10; ++i) {
      Request request = test::WildRequest(seed_ * 100 + i, /*post_processor=*/true);
      request.lora.clear();
      try {
        const int64_t id = executor.Enqueue(request);
        ledger_.Sent(id, Ledger::EntryOf(request, /*ordered=*/false));
        last_id_ = id;
      } catch (const ffi::Error& error) {
        if (error.kind() == "RuntimeError") return;  // shut down
        MLF_EXPECT(error.kind() == "ValueError");    // too long
      }
    }
  }

  void Read(Executor& executor) {
    while (!stop_) ledger_.Record(executor.Await(1, std::nullopt));
  }

  void Cancel(Executor& executor) {
    while (!stop_) {
      if (last_id_ >= 0) executor.Cancel(last_id_);
      executor.stats();
      std::this_thread::yield();
    }
  }

  Dice dice_;
  const uint64_t seed_;
  Ledger ledger_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> last_id_{-1};
  std::shared_ptr<Executor> executor_;
};

int64_t ShutdownsFrom(int argc, char** argv) {
  if (argc > 1) return std::strtoll(argv[1], nullptr, 10);
  return std::getenv("MLF_TEST_EMULATED") != nullptr ? 30 : kDefaultShutdowns;
}

// ---- by whom ------------------------------------------------------------------------------------

void TestTwice() {
  const auto executor = Executor::Create(TheModel(), SmallConfig());
  const int64_t id = executor->Enqueue(LongRequest());
  executor->Shutdown(false);
  executor->Shutdown(false);
  executor->Shutdown(true);
  const auto responses = executor->Await(std::nullopt, id);
  MLF_EXPECT(responses.size() == 1 && responses[0].is_request_final);
  MLF_EXPECT(responses[0].finish_reason == FinishReason::kCancelled);
  MLF_EXPECT(responses[0].error == "the executor was shut down");
  MLF_EXPECT(executor->Await(std::nullopt, id).empty() && !executor->Cancel(id));
}

void TestDrainsAndIsCutShort() {
  const auto executor = Executor::Create(TheModel(), SmallConfig());
  const int64_t id = executor->Enqueue(LongRequest());
  executor->Shutdown(true);
  const auto responses = executor->Await(std::nullopt, id);
  MLF_EXPECT(responses.size() == 1 && responses[0].finish_reason == FinishReason::kLength);
  MLF_EXPECT(responses[0].tokens.size() == 200);

  const auto cut = Executor::Create(TheModel(), SmallConfig());
  Request slow = LongRequest();
  std::vector<int64_t> ids;
  for (int i = 0; i < 200; ++i) ids.push_back(cut->Enqueue(slow));
  std::thread drains([&] { cut->Shutdown(true); });
  while (cut->CanEnqueue()) std::this_thread::yield();
  cut->Shutdown(false);
  drains.join();
  int64_t cancelled = 0;
  for (const int64_t request : ids) {
    const auto last = cut->Await(std::nullopt, request);
    MLF_EXPECT(last.size() == 1 && last[0].is_request_final);
    cancelled += last[0].finish_reason == FinishReason::kCancelled ? 1 : 0;
  }
  MLF_EXPECT(cancelled > 0);
}

/// A waiter does not wait for ever when another thread ends the executor.
void TestLetsGoOfWaiters() {
  const auto executor = Executor::Create(TheModel(), SmallConfig());
  const int64_t id = executor->Enqueue(LongRequest(), Audience::kOwn);
  std::atomic<int> ends{0};
  std::thread own([&] {
    for (const Response& r : executor->Await(std::nullopt, id, Audience::kOwn))
      ends += r.is_request_final ? 1 : 0;
  });
  std::thread others([&] { MLF_EXPECT(executor->Await(1e9, std::nullopt).empty()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  executor->Shutdown(false);
  own.join();
  others.join();
  MLF_EXPECT(ends.load() == 1);
}

/// Where a callback finds the executor that it belongs to, and keeps it.
class Owner {
 public:
  void Set(const std::shared_ptr<Executor>& executor) {
    const std::lock_guard<std::mutex> lock(mutex_);
    executor_ = executor;
  }
  /// The owner's share, once.
  std::shared_ptr<Executor> Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(executor_, nullptr);
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<Executor> executor_;
};

/// The last owner goes in a callback: of a step, or of the post-processor.
void TestDroppedInCallback(bool in_step) {
  const auto model = test::LoadTiny();
  const auto owner = std::make_shared<Owner>();
  const auto drop = [owner] {
    if (const auto executor = owner->Take()) {
      MLF_EXPECT_THROWS(executor->Shutdown(false), "RuntimeError", "callback");
    }
  };
  const PostProcessor post_processor = [=](const MaskEntries&) {
    if (!in_step) drop();
  };
  const Executor::StepCallback on_step = [=](const ExecutorStats&) {
    if (in_step) drop();
  };
  {
    const auto executor = Executor::Create(model, SmallConfig(), post_processor, on_step);
    Request request = LongRequest();
    request.use_logits_post_processor = true;
    executor->Enqueue(request);
    owner->Set(executor);
  }
  while (model.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace
}  // namespace mlf

int main(int argc, char** argv) {
  mlf::TestTwice();
  mlf::TestDrainsAndIsCutShort();
  mlf::TestLetsGoOfWaiters();
  for (int times = 0; times < 20; ++times) {
    mlf::TestDroppedInCallback(/*in_step=*/true);
    mlf::TestDroppedInCallback(/*in_step=*/false);
  }
  const int64_t n = mlf::ShutdownsFrom(argc, argv);
  for (int64_t seed = 1; seed <= n; ++seed) mlf::Moment(seed).Run();
  return 0;
}
