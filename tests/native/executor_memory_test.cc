// Tests of src/runtime/executor where memory runs out on the engine's thread: at each allocation in
// turn, several in a row, for a while. Each request still ends once, gives back what it held, and
// the next one is served.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "executor_ledger.h"
#include "runtime/executor.h"
#include "tiny_model.h"

namespace {

/// Threads whose allocations never fail: the test's own and the post-processor's.
thread_local bool spared = false;
std::atomic<bool> armed{false};
std::atomic<int64_t> until_first{0};  // allocations that still succeed
std::atomic<int64_t> to_fail{0};      // how many then do not

bool Fails() {
  if (!armed.load(std::memory_order_relaxed) || spared) return false;
  const int64_t before = until_first.fetch_sub(1, std::memory_order_relaxed);
  return before <= 0 && -before < to_fail.load(std::memory_order_relaxed);
}

void* Allocate(size_t size, size_t alignment) {
  if (Fails()) return nullptr;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(size > 0 ? size : 1);
  return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* AllocateOrThrow(size_t size, size_t alignment) {
  if (void* memory = Allocate(size, alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t size) { return AllocateOrThrow(size, 1); }
void* operator new[](size_t size) { return AllocateOrThrow(size, 1); }
void* operator new(size_t size, std::align_val_t alignment) {
  return AllocateOrThrow(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return AllocateOrThrow(size, static_cast<size_t>(alignment));
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return Allocate(size, 1); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return Allocate(size, 1); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace mlf {
namespace {

using test::Ledger;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int64_t kStride = 7;  // every seventh allocation
#else
constexpr int64_t kStride = 1;
#endif

struct Scenario {
  const char* name;
  std::vector<Request> requests;
  std::function<void(ExecutorConfig&)> change = [](ExecutorConfig&) {};
};

Request Simple(int64_t n_prompt, int64_t max_new_tokens) {
  Request request;
  const auto text = test::TinyText(n_prompt);
  request.tokens.assign(text.begin(), text.end());
  request.max_new_tokens = max_new_tokens;
  request.sampling.seed = 5;
  request.ignore_eos = true;
  return request;
}

Request With(Request request, const std::function<void(Request&)>& change) {
  change(request);
  return request;
}

std::vector<Scenario> Scenarios() {
  const Request simple = Simple(40, 5);
  const Request streaming = With(simple, [](Request& r) {
    r.streaming = true;
    r.stop_words = {"no such text here"};
    r.logprobs = 2;
  });
  const Request several = With(simple, [](Request& r) { r.num_return_sequences = 3; });
  const Request best = With(several, [](Request& r) { r.best_of = 4; });
  const Request beams = With(Simple(40, 5), [](Request& r) { r.beam_width = 3; });
  const Request masked = With(several, [](Request& r) { r.use_logits_post_processor = true; });
  const Request explained = With(simple, [](Request& r) { r.prompt_logprobs = 2; });
  return {{"streams", {streaming, simple}},
          {"sequences", {several, explained}},
          {"best of", {best, simple}},
          {"beams", {beams, simple}},
          {"masks", {masked, streaming}},
          {"pre-emption", {Simple(60, 9), Simple(61, 9)}, [](ExecutorConfig& config) {
             config.kv_cache_tokens = 160;
           }}};
}

std::shared_ptr<const Model> TheModel() {
  static const std::shared_ptr<const Model> model = test::LoadTiny();
  return model;
}

std::shared_ptr<Executor> NewExecutor(const Scenario& scenario) {
  ExecutorConfig config;
  config.max_batch_size = 8;
  config.max_num_tokens = 64;
  config.kv_cache_tokens = 1024;
  scenario.change(config);
  return Executor::Create(TheModel(), config, [](const MaskEntries& entries) {
    spared = true;
    for (const auto& entry : entries) {
      std::fill_n(static_cast<int32_t*>(entry->bitmask.data_ptr()), 4, 0x0F0F0F0F);
    }
  });
}

void Send(Executor& executor, const Scenario& scenario, Ledger& ledger) {
  for (size_t i = 0; i < scenario.requests.size(); ++i) {
    const Request& request = scenario.requests[i];
    ledger.Sent(executor.Enqueue(request),
                Ledger::EntryOf(request, /*ordered=*/true, static_cast<int64_t>(i)));
  }
}

/// Everything of a scenario ends, though `count` allocations fail after the first n. False when
/// none did.
bool Survives(const Scenario& scenario, Ledger& ledger, int64_t n, int64_t count) {
  const auto executor = NewExecutor(scenario);
  until_first = n;
  to_fail = count;
  armed = true;
  Send(*executor, scenario, ledger);
  test::ReadAll(*executor, ledger);
  armed = false;
  const bool failed = until_first.load() < 0;
  ledger.Settle();
  test::ExpectIdle(*executor);
  // And what comes next is served, with the tokens that it always has.
  const int64_t errors = ledger.n_ended(FinishReason::kError);
  Send(*executor, scenario, ledger);
  test::ReadAll(*executor, ledger);
  ledger.Settle();
  MLF_EXPECT(ledger.n_ended(FinishReason::kError) == errors);
  test::ExpectIdle(*executor);
  executor->Shutdown(true);
  return failed;
}

void TestEachAllocation(int64_t count, int64_t stride) {
  int64_t first = 0;
  for (const Scenario& scenario : Scenarios()) {
    Ledger ledger;
    MLF_EXPECT(!Survives(scenario, ledger, 1 << 30, 0));
    int64_t n = first++ % stride;
    while (Survives(scenario, ledger, n, count)) n += stride;
    MLF_EXPECT(n > 50 && ledger.n_ended(FinishReason::kError) > 0);
    if (std::getenv("MLF_EXECUTOR_VERBOSE") != nullptr) {
      std::fprintf(stderr, "%s: %d allocations, %d ends with an error\n", scenario.name,
                   static_cast<int>(n), static_cast<int>(ledger.n_ended(FinishReason::kError)));
    }
  }
}

/// Nothing at all can be allocated for some time.
void TestDrought() {
  for (const Scenario& scenario : Scenarios()) {
    for (int64_t n = 0; n < 200; n += 11 * kStride) {
      Ledger ledger;
      const auto executor = NewExecutor(scenario);
      until_first = n;
      to_fail = int64_t{1} << 60;
      armed = true;
      Send(*executor, scenario, ledger);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      armed = false;
      test::ReadAll(*executor, ledger);
      ledger.Settle();
      test::ExpectIdle(*executor);
    }
  }
}

}  // namespace
}  // namespace mlf

int main() {
  spared = true;
  const int64_t stride = std::getenv("MLF_TEST_EMULATED") == nullptr ? mlf::kStride : 100;
  mlf::TestEachAllocation(1, stride);
  mlf::TestEachAllocation(4, 5 * stride);
  mlf::TestDrought();
  return 0;
}
