// Tests of src/runtime/executor under traffic: any number of random requests from many threads, of
// which each ends once and leaves nothing behind, with the same tokens whatever runs beside it.
//
//   executor_test [requests]     also as MLF_EXECUTOR_REQUESTS
#include "runtime/executor.h"

#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "executor_ledger.h"
#include "executor_traffic.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::Dice;
using test::Ledger;
using test::Misbehaviour;

#if defined(__SANITIZE_THREAD__)
constexpr int64_t kDefaultRequests = 600;
#elif defined(__SANITIZE_ADDRESS__)
constexpr int64_t kDefaultRequests = 1500;
#else
constexpr int64_t kDefaultRequests = 4000;
#endif
constexpr int64_t kRepeatable = 60;  // requests that come again and again

struct Round {
  std::string name;
  ExecutorConfig config;
  int n_threads = 1;
  bool post_processor = true;
};

ExecutorConfig SmallConfig() {
  ExecutorConfig config;
  config.max_batch_size = 12;
  config.max_num_tokens = 48;
  config.kv_cache_tokens = 768;
  config.max_queue_size = 64;
  config.max_pending_responses = 8;
  config.n_post_processor_threads = 2;
  config.post_processor_timeout_ms = 120'000;  // never, however slow the machine is
  return config;
}

std::vector<Round> Rounds() {
  std::vector<Round> rounds(5, {.name = "", .config = SmallConfig()});
  rounds[0].name = "chunks and prefixes";
  rounds[1].name = "two threads, fast aging, a step of any size";
  rounds[1].n_threads = 2;
  rounds[1].config.max_num_tokens.reset();
  rounds[1].config.priority_aging_ms = 3;
  rounds[2].name = "no chunks, no prefixes";
  rounds[2].config.enable_chunked_prefill = false;
  rounds[2].config.enable_prefix_cache = false;
  rounds[2].config.max_num_tokens = 256;
  rounds[3].name = "no eviction";
  rounds[3].config.scheduler_policy = SchedulerPolicy::kGuaranteedNoEvict;
  rounds[4].name = "room for few, no post-processor";
  rounds[4].config.kv_cache_tokens = 384;
  rounds[4].config.max_batch_size = 6;
  rounds[4].config.max_num_tokens = 16;
  rounds[4].post_processor = false;
  return rounds;
}

// ---- traffic ------------------------------------------------------------------------------------

/// One executor, and the threads that use it.
class Traffic {
 public:
  Traffic(const Round& round, Ledger& ledger, int64_t n_requests, uint64_t seed)
      : round_(round), ledger_(ledger), n_requests_(n_requests), seed_(seed) {
    const auto model = test::LoadTiny({}, {.n_threads = round.n_threads});
    PostProcessor post_processor;
    if (round.post_processor) {
      post_processor = [this](const MaskEntries& entries) { misbehaviour_(entries); };
    }
    executor_ = Executor::Create(model, round.config, post_processor);
    adapters_.LoadInto(*executor_);
    misbehaviour_.SetCallBack([this] { CallBack(); });
  }

  void Run() {
    std::vector<std::thread> clients, readers;
    for (int i = 0; i < kReaders; ++i) {
      readers.emplace_back([this, i] { Read(i == 0 ? Audience::kPump : Audience::kAny, i); });
    }
    readers.emplace_back([this] { Disturb(); });
    for (int i = 0; i < kClients; ++i) clients.emplace_back([this, i] { Send(i); });
    for (std::thread& client : clients) client.join();
    while (ledger_.n_open() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    misbehaviour_.SetCallBack(nullptr);  // an end may still be told
    finished_ = true;
    for (std::thread& reader : readers) reader.join();
    while (ledger_.n_open() > 0) ledger_.Record(executor_->Await(20, std::nullopt));
    ledger_.Settle();
    test::ExpectIdle(*executor_);
    executor_->Shutdown(/*drain=*/true);
  }

  const Executor& executor() const { return *executor_; }

 private:
  static constexpr int kClients = 4, kReaders = 3;

  struct Mine {
    int64_t id;
    bool cancel;
    int64_t reads = 0;
  };

  std::optional<int64_t> Enqueue(const Request& request, Audience audience, int64_t repeats) {
    // Whoever is not alone to read a request may record what came last first.
    const Ledger::Entry entry = Ledger::EntryOf(request, audience != Audience::kAny, repeats);
    while (true) {
      try {
        const int64_t id = executor_->Enqueue(request, audience);
        ledger_.Sent(id, entry);
        last_id_ = id;
        return id;
      } catch (const ffi::Error& error) {
        // Too long for this executor, or its adapter is being loaded again.
        if (error.kind() == "ValueError" || error.kind() == "KeyError") return std::nullopt;
        MLF_EXPECT(error.message().find("the queue is full") != std::string::npos);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  /// Sends its part of the requests and reads those that nobody else may.
  void Send(int self) {
    std::deque<Mine> mine;
    for (int64_t i = self; i < n_requests_; i += kClients) {
      Dice dice(RandomBits(seed_, i));
      const bool repeats = dice.OneIn(2);
      const int64_t number = repeats ? dice.Below(kRepeatable) : i;
      const Request request = repeats ? test::RepeatableRequest(number, round_.post_processor)
                                      : test::WildRequest(seed_ + i, round_.post_processor);
      const auto audience = static_cast<Audience>(dice.Below(3));
      const auto id = Enqueue(request, audience, repeats ? number : -1);
      if (id && audience == Audience::kOwn) mine.push_back({*id, dice.OneIn(6)});
      if (id && dice.OneIn(20)) executor_->Cancel(*id);
      while (mine.size() > 3) ReadMine(mine, dice);
    }
    Dice dice(seed_ + self);
    while (!mine.empty()) ReadMine(mine, dice);
  }

  /// Reads a little of one of its requests; some are slow to be read, some cancelled midway.
  void ReadMine(std::deque<Mine>& mine, Dice& dice) {
    Mine one = mine.front();
    mine.pop_front();
    const auto responses =
        executor_->Await(static_cast<double>(dice.Below(4)), one.id, Audience::kOwn);
    ledger_.Record(responses);
    if (++one.reads == 2 && one.cancel) executor_->Cancel(one.id);
    if (responses.empty() || !responses.back().is_request_final) mine.push_back(one);
  }

  void Read(Audience audience, int self) {
    Dice dice(self);
    while (!finished_) {
      const auto timeout = static_cast<double>(dice.Below(20));
      ledger_.Record(executor_->Await(timeout, std::nullopt, audience));
    }
  }

  void Disturb() {
    Dice dice(seed_ + 1000);
    while (!finished_) {
      const int64_t last = last_id_;
      if (last >= 0) executor_->Cancel(std::max<int64_t>(0, last - dice.Below(40)));
      const ExecutorStats stats = executor_->stats();
      MLF_EXPECT(stats.blocks_used >= 0 && stats.blocks_free >= 0 && stats.blocks_cached >= 0);
      MLF_EXPECT(stats.running <= round_.config.max_batch_size);
      executor_->CanEnqueue();
      if (last % 16 == 0) adapters_.Reload(*executor_);
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
    }
  }

  /// From the post-processor, while the engine may wait for it.
  void CallBack() {
    executor_->stats();
    executor_->Loras();
    ledger_.Record(executor_->Await(0, std::nullopt, Audience::kAny));
    MLF_EXPECT_THROWS(executor_->Shutdown(true), "RuntimeError", "callback");
    const int64_t last = last_id_;
    if (last >= 0) executor_->Cancel(last);
    if (!executor_->CanEnqueue() || n_extra_++ % 8 != 0) return;
    Request request;
    request.tokens = {5, 6, 7};
    request.max_new_tokens = 2;
    try {
      const int64_t id = executor_->Enqueue(request);
      ledger_.Sent(id, Ledger::EntryOf(request, /*ordered=*/false));
    } catch (const ffi::Error& error) {
      MLF_EXPECT(error.message().find("the queue is full") != std::string::npos);
    }
  }

  const Round round_;
  Ledger& ledger_;
  const int64_t n_requests_;
  const uint64_t seed_;
  test::Adapters adapters_;
  Misbehaviour misbehaviour_;
  std::atomic<int64_t> last_id_{-1}, n_extra_{0};
  std::atomic<bool> finished_{false};
  std::shared_ptr<Executor> executor_;
};

/// What the repeated requests give when each is alone.
void RunAlone(Ledger& ledger) {
  Misbehaviour misbehaviour;
  ExecutorConfig config = SmallConfig();
  config.max_num_tokens = 256;
  config.enable_prefix_cache = false;
  config.max_pending_responses = 1000;
  const auto executor = Executor::Create(
      test::LoadTiny(), config, [&](const MaskEntries& entries) { misbehaviour(entries); });
  const test::Adapters adapters;
  adapters.LoadInto(*executor);
  for (int64_t i = 0; i < kRepeatable; ++i) {
    const Request request = test::RepeatableRequest(i, /*post_processor=*/true);
    ledger.Sent(executor->Enqueue(request), Ledger::EntryOf(request, true, i));
    test::ReadAll(*executor, ledger);
    MLF_EXPECT(!ledger.TokensOf(i).empty());
  }
  executor->Shutdown(true);
}

void TestTraffic(int64_t n_requests) {
  Ledger with, without;  // a post-processor
  RunAlone(with);
  const std::vector<Round> rounds = Rounds();
  for (size_t i = 0; i < rounds.size(); ++i) {
    Ledger& ledger = rounds[i].post_processor ? with : without;
    Traffic traffic(rounds[i], ledger, n_requests / static_cast<int64_t>(rounds.size()), 1 + i);
    traffic.Run();
  }
  using enum FinishReason;
  for (const FinishReason reason : {kEndId, kStopWords, kLength, kCancelled, kTimedOut, kError}) {
    MLF_EXPECT(with.n_ended(reason) > 0);
  }
}

// ---- memory -------------------------------------------------------------------------------------

double ResidentBytes() {
  malloc_trim(0);
  std::ifstream statm("/proc/self/statm");
  double size = 0, resident = 0;
  statm >> size >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

/// After the first half of the requests memory does not grow any more.
void TestMemoryIsFlat(int64_t n_requests) {
  Ledger ledger;
  Misbehaviour misbehaviour;
  const auto executor = Executor::Create(
      test::LoadTiny(), SmallConfig(), [&](const MaskEntries& entries) { misbehaviour(entries); });
  const test::Adapters adapters;
  adapters.LoadInto(*executor);
  constexpr int64_t kParts = 8;
  std::vector<double> resident;
  for (int64_t part = 0; part < kParts; ++part) {
    for (int64_t i = 0; i < n_requests / kParts; ++i) {
      Request request = test::WildRequest(part * n_requests + i, /*post_processor=*/true);
      request.tokens.resize(std::min<size_t>(request.tokens.size(), 60));
      request.max_new_tokens = std::min<int64_t>(request.max_new_tokens, 20);
      request.min_tokens = 0;
      while (!executor->CanEnqueue()) ledger.Record(executor->Await(5, std::nullopt));
      const int64_t id = executor->Enqueue(request);
      ledger.Sent(id, Ledger::EntryOf(request));
      if (i % 7 == 0) executor->Cancel(id);
    }
    test::ReadAll(*executor, ledger);
    resident.push_back(ResidentBytes());
  }
  test::ExpectIdle(*executor);
  if (std::getenv("MLF_EXECUTOR_VERBOSE") != nullptr) {
    for (const double bytes : resident) std::fprintf(stderr, "%.2f MiB\n", bytes / 0x1p20);
  }
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
  // An emulator keeps what it has translated, and comes to new code at any time.
  if (std::getenv("MLF_TEST_EMULATED") != nullptr) return;
  const double half = resident[kParts / 2 - 1];
  for (int64_t part = kParts / 2; part < kParts; ++part) {
    MLF_EXPECT(std::abs(resident[part] - half) <= 0.02 * half);
  }
#endif
}

int64_t RequestsFrom(int argc, char** argv) {
  if (argc > 1) return std::strtoll(argv[1], nullptr, 10);
  if (const char* count = std::getenv("MLF_EXECUTOR_REQUESTS")) {
    return std::strtoll(count, nullptr, 10);
  }
  return std::getenv("MLF_TEST_EMULATED") != nullptr ? 100 : kDefaultRequests;
}

}  // namespace
}  // namespace mlf

int main(int argc, char** argv) {
  const int64_t n_requests = mlf::RequestsFrom(argc, argv);
  mlf::TestTraffic(n_requests);
  mlf::TestMemoryIsFlat(n_requests / 2);
  return 0;
}
