// Tests of src/runtime/executor: faults of the network, of the post-processor and of clients end
// the requests that they belong to, and nothing else.
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "executor_ledger.h"
#include "model/decoder.h"
#include "runtime/executor.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::Ledger;
using test::Tokens;

constexpr int32_t kBadToken = 298;  // what the network below cannot stand

// ---- a network with faults ----------------------------------------------------------------------

enum class Fault { kNone, kThrowsBefore, kThrowsAfter, kNan, kAlways };
std::atomic<Fault> fault{Fault::kNone};

/// A decoder that fails where a batch holds kBadToken.
class FaultyNetwork final : public Network {
 public:
  explicit FaultyNetwork(std::unique_ptr<Network> inner) : inner_(std::move(inner)) {}

  void Forward(const ForwardBatch& batch, const std::vector<KvLayer>& kv,
               const Workspace& workspace, const RopeSettings& rope,
               ArrayView logits) const override {
    const Fault how = fault;
    if (how == Fault::kAlways) throw std::runtime_error("no pass at all");
    const std::vector<int32_t> rows = BadRows(batch);
    if (!rows.empty() && how == Fault::kThrowsBefore) throw std::runtime_error("a bad token");
    inner_->Forward(batch, kv, workspace, rope, logits);
    if (!rows.empty() && how == Fault::kThrowsAfter) throw std::runtime_error("a bad token");
    if (how == Fault::kNan) Spoil(batch, rows, logits);
  }

  ArrayView freq_factors() const override { return inner_->freq_factors(); }

 private:
  /// Sequences, as rows of the block table, with the token.
  static std::vector<int32_t> BadRows(const ForwardBatch& batch) {
    std::vector<int32_t> rows;
    for (int64_t t = 0; t < batch.size(); ++t) {
      if (batch.tokens.data<int32_t>()[t] == kBadToken) {
        rows.push_back(batch.rows.data<int32_t>()[t]);
      }
    }
    return rows;
  }

  static void Spoil(const ForwardBatch& batch, const std::vector<int32_t>& rows, ArrayView logits) {
    for (int64_t i = 0; i < batch.n_outputs(); ++i) {
      const int32_t token = batch.outputs.data<int32_t>()[i];
      if (std::count(rows.begin(), rows.end(), batch.rows.data<int32_t>()[token]) == 0) continue;
      logits.data<float>()[i * logits.size(1) + 3] = std::numeric_limits<float>::quiet_NaN();
    }
  }

  std::unique_ptr<Network> inner_;
};

std::unique_ptr<Network> BuildFaulty(ModelConfig& config, WeightLoader& loader) {
  return std::make_unique<FaultyNetwork>(
      BuildDecoder(config, loader,
                   {.rope_interleaved = true, .attention_bias = false, .rope_freq_factors = true}));
}

[[maybe_unused]] const bool kRegistered = RegisterArchitecture("faulty", BuildFaulty);

std::shared_ptr<const Model> TheModel() {
  static const std::shared_ptr<const Model> model = test::LoadTiny({.architecture = "faulty"});
  return model;
}

// ---- requests -----------------------------------------------------------------------------------

ExecutorConfig SmallConfig() {
  ExecutorConfig config;
  config.max_batch_size = 8;
  config.max_num_tokens = 64;
  config.kv_cache_tokens = 1024;
  return config;
}

Request RequestOf(uint64_t text, int64_t max_new_tokens = 12, int64_t n_prompt = 10) {
  Request request;
  const auto tokens = test::TinyText(n_prompt, text);
  request.tokens.assign(tokens.begin(), tokens.end());
  std::replace(request.tokens.begin(), request.tokens.end(), kBadToken, kBadToken - 1);
  request.max_new_tokens = max_new_tokens;
  request.sampling.seed = text;
  request.sampling.logit_bias = {{kBadToken, -HUGE_VAL}};
  request.ignore_eos = true;
  return request;
}

Request Bad() {
  Request request = RequestOf(99);
  request.tokens.back() = kBadToken;
  return request;
}

std::vector<Response> AllOf(Executor& executor, int64_t id) {
  std::vector<Response> all;
  while (all.empty() || !all.back().is_request_final) {
    for (Response& response : executor.Await(std::nullopt, id)) all.push_back(std::move(response));
  }
  return all;
}

Response Only(Executor& executor, int64_t id) {
  const auto responses = AllOf(executor, id);
  MLF_EXPECT(responses.size() == 1);
  return responses.front();
}

Tokens TokensOfText(Executor& executor, uint64_t text) {
  const Response response = Only(executor, executor.Enqueue(RequestOf(text)));
  MLF_EXPECT(response.finish_reason == FinishReason::kLength);
  return response.tokens;
}

void ExpectError(const Response& response, const std::string& part) {
  MLF_EXPECT(response.finish_reason == FinishReason::kError && response.is_request_final);
  MLF_EXPECT(response.error.find(part) != std::string::npos);
}

// ---- the network --------------------------------------------------------------------------------

/// One request of a batch makes its pass fail: the others get the tokens that they get alone.
void TestOneRequestFails() {
  const auto executor = Executor::Create(TheModel(), SmallConfig());
  std::vector<Tokens> alone;
  for (uint64_t text = 0; text < 4; ++text) alone.push_back(TokensOfText(*executor, text));
  for (const Fault how : {Fault::kThrowsBefore, Fault::kThrowsAfter, Fault::kNan}) {
    for (const int64_t n : {1, 3}) {
      fault = how;
      std::vector<int64_t> ids;
      for (uint64_t text = 0; text < 4; ++text) {
        ids.push_back(executor->Enqueue(RequestOf(text)));
        if (text != 1) continue;
        Request bad = Bad();
        bad.num_return_sequences = n;
        ids.push_back(executor->Enqueue(bad));
      }
      const auto failed = AllOf(*executor, ids[2]);
      MLF_EXPECT(static_cast<int64_t>(failed.size()) == n);
      ExpectError(failed.back(), how == Fault::kNan ? "NaN" : "a bad token");
      ids.erase(ids.begin() + 2);
      for (size_t i = 0; i < ids.size(); ++i) {
        MLF_EXPECT(Only(*executor, ids[i]).tokens == alone[i]);
      }
      test::ExpectIdle(*executor);
    }
  }
  fault = Fault::kNone;
}

void TestAllFail() {
  const auto executor = Executor::Create(TheModel(), SmallConfig());
  const Tokens before = TokensOfText(*executor, 3);
  fault = Fault::kAlways;
  std::vector<int64_t> ids;
  for (uint64_t text = 0; text < 20; ++text) ids.push_back(executor->Enqueue(RequestOf(text)));
  for (const int64_t id : ids) ExpectError(Only(*executor, id), "no pass at all");
  fault = Fault::kNone;
  test::ExpectIdle(*executor);
  MLF_EXPECT(TokensOfText(*executor, 3) == before);
}

void TestModelIsClosed() {
  const auto model = test::LoadTiny();
  const auto executor = Executor::Create(model, SmallConfig());
  const int64_t id = executor->Enqueue(RequestOf(1, 200));
  model->Close();
  ExpectError(Only(*executor, id), "this Model is closed");
  ExpectError(Only(*executor, executor->Enqueue(RequestOf(2))), "this Model is closed");
  test::ExpectIdle(*executor);
}

void TestTwoExecutorsOnOneModel() {
  const auto one = Executor::Create(TheModel(), SmallConfig());
  const auto two = Executor::Create(TheModel(), SmallConfig());
  const Tokens expected = TokensOfText(*one, 5);
  std::vector<int64_t> ids;
  for (int i = 0; i < 6; ++i) {
    ids.push_back(one->Enqueue(RequestOf(5)));
    MLF_EXPECT(two->Enqueue(RequestOf(5)) == i);
  }
  for (int i = 0; i < 6; ++i) {
    MLF_EXPECT(Only(*one, ids[i]).tokens == expected && Only(*two, i).tokens == expected);
  }
}

// ---- the post-processor -------------------------------------------------------------------------

/// What it does is in the request's client_id.
enum Behaviour : int64_t { kFine, kThrows, kBlocks, kDies, kShutsDown, kWaits, kForcesNonsense };

class Misbehaving {
 public:
  explicit Misbehaving(double timeout_ms) {
    ExecutorConfig config = SmallConfig();
    config.post_processor_timeout_ms = timeout_ms;
    config.n_post_processor_threads = 8;  // so that each of few entries has a call of its own
    const auto gate = gate_;
    const auto self = self_;
    executor_ = Executor::Create(TheModel(), config, [gate, self](const MaskEntries& entries) {
      for (const auto& entry : entries) {
        if (!entry->is_final) Act(*entry, *gate, *self);
      }
    });
    *self_ = executor_.get();
  }
  ~Misbehaving() { *gate_ = true; }

  int64_t Send(Behaviour behaviour, uint64_t text) {
    Request request = RequestOf(text);
    request.use_logits_post_processor = true;
    request.client_id = behaviour;
    return executor_->Enqueue(request);
  }
  Executor& executor() { return *executor_; }

 private:
  static void Act(MaskEntry& entry, const std::atomic<bool>& gate,
                  const std::atomic<Executor*>& self) {
    switch (entry.client_id) {
      case kThrows:
        throw std::runtime_error("the callback's own words");
      case kBlocks:
        while (!gate) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        entry.temperature = 7;  // far too late
        return;
      case kDies:
        pthread_exit(nullptr);
      case kShutsDown:
        self.load()->Shutdown(true);
        return;
      case kWaits:
        self.load()->Await(std::nullopt, std::nullopt);
        return;
      case kForcesNonsense:
        entry.forced_tokens = {5, test::kTinyTokens};
        return;
      default:
        return;
    }
  }

  const std::shared_ptr<std::atomic<bool>> gate_ = std::make_shared<std::atomic<bool>>(false);
  const std::shared_ptr<std::atomic<Executor*>> self_ =
      std::make_shared<std::atomic<Executor*>>(nullptr);
  std::shared_ptr<Executor> executor_;
};

void TestPostProcessorFails() {
  struct Case {
    Behaviour behaviour;
    std::string error;
  };
  // An emulated machine takes long to say where an exception came from.
  const int timeout_ms = std::getenv("MLF_TEST_EMULATED") == nullptr ? 100 : 3000;
  const std::string no_answer =
      "logits post-processor: no answer after " + std::to_string(timeout_ms) + " ms";
  Misbehaving misbehaving(timeout_ms);
  Executor& executor = misbehaving.executor();
  const Tokens first = TokensOfText(executor, 1), second = TokensOfText(executor, 2);
  for (const Case& c :
       {Case{kThrows, "logits post-processor: the callback's own words"}, Case{kBlocks, no_answer},
        Case{kDies, no_answer}, Case{kShutsDown, "shutdown: called from a callback"},
        Case{kWaits, "await_responses: called from a callback"},
        Case{kForcesNonsense, "forced token 300 is out of range"}}) {
    for (int times = 0; times < 3; ++times) {
      const int64_t masked = misbehaving.Send(kFine, 1), bad = misbehaving.Send(c.behaviour, 3),
                    plain = executor.Enqueue(RequestOf(2));
      ExpectError(Only(executor, bad), c.error);
      // Where the machine is slow, the time-out may have been too short for it too.
      Response fine = Only(executor, masked);
      while (fine.error.find("no answer") != std::string::npos) {
        fine = Only(executor, misbehaving.Send(kFine, 1));
      }
      MLF_EXPECT(fine.tokens == first);
      MLF_EXPECT(Only(executor, plain).tokens == second);
      test::ExpectIdle(executor);
    }
  }
}

void TestStepCallbackThrows() {
  std::atomic<int64_t> steps{0};
  const auto executor =
      Executor::Create(TheModel(), SmallConfig(), nullptr, [&](const ExecutorStats& stats) {
        steps = stats.steps;
        throw std::runtime_error("from the callback");
      });
  TokensOfText(*executor, 1);
  executor->Shutdown(true);
  MLF_EXPECT(steps.load() >= 12);
}

// ---- clients ------------------------------------------------------------------------------------

void TestSlowReader() {
  for (const bool prefixes : {true, false}) {
    ExecutorConfig config = SmallConfig();
    config.max_pending_responses = 3;
    config.enable_prefix_cache = prefixes;
    const auto executor = Executor::Create(TheModel(), config);
    for (const int64_t n : {1, 3}) {
      Request request = RequestOf(4, 100, 40);
      request.streaming = true;
      request.num_return_sequences = n;
      const int64_t id = executor->Enqueue(request);
      TokensOfText(*executor, 1);  // somebody else is served meanwhile
      while (executor->stats().running > 0) std::this_thread::yield();
      const auto responses = AllOf(*executor, id);
      MLF_EXPECT(static_cast<int64_t>(responses.size()) == 3 + n);
      const Response& last = responses.back();
      MLF_EXPECT(last.finish_reason == FinishReason::kCancelled);
      MLF_EXPECT(last.error.find("max_pending_responses=3") != std::string::npos);
      test::ExpectIdle(*executor);
    }
  }
}

void TestRefusals() {
  ExecutorConfig config = SmallConfig();
  config.kv_cache_tokens = 128;
  config.max_queue_size = 4;
  const auto executor = Executor::Create(TheModel(), config);
  MLF_EXPECT(executor->Await(std::nullopt, std::nullopt).empty());
  for (const int64_t id : {-1, 0, 77}) {
    MLF_EXPECT_THROWS(executor->Cancel(id), "ValueError", "was never given");
    MLF_EXPECT_THROWS(executor->Await(0, id), "ValueError", "was never given");
  }
  MLF_EXPECT_THROWS(executor->Enqueue(RequestOf(1, 8, 200)), "ValueError", "the length of tokens");
  Request wide = RequestOf(1, 60, 60);
  wide.num_return_sequences = 4;
  MLF_EXPECT_THROWS(executor->Enqueue(wide), "ValueError", "can never fit kv_cache_tokens=128");
  std::vector<int64_t> ids;
  while (executor->CanEnqueue()) ids.push_back(executor->Enqueue(RequestOf(ids.size())));
  MLF_EXPECT_THROWS(executor->Enqueue(RequestOf(1)), "RuntimeError", "max_queue_size=4");
  for (const int64_t id : ids) Only(*executor, id);
  MLF_EXPECT(!executor->Cancel(ids.front()));
  executor->Shutdown(true);
  MLF_EXPECT_THROWS(executor->Enqueue(RequestOf(1)), "RuntimeError", "is shut down");
}

/// Many more than there is room for at once.
void TestFullCache() {
  for (const SchedulerPolicy policy :
       {SchedulerPolicy::kMaxUtilization, SchedulerPolicy::kGuaranteedNoEvict}) {
    ExecutorConfig config = SmallConfig();
    config.kv_cache_tokens = 160;
    config.scheduler_policy = policy;
    const auto executor = Executor::Create(TheModel(), config);
    std::vector<Tokens> alone;
    for (uint64_t text = 0; text < 8; ++text) {
      alone.push_back(Only(*executor, executor->Enqueue(RequestOf(text, 50, 30))).tokens);
    }
    std::vector<int64_t> ids;
    for (uint64_t text = 0; text < 8; ++text) {
      ids.push_back(executor->Enqueue(RequestOf(text, 50, 30)));
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      MLF_EXPECT(Only(*executor, ids[i]).tokens == alone[i]);
    }
    test::ExpectIdle(*executor);
    const bool evicts = policy == SchedulerPolicy::kMaxUtilization;
    MLF_EXPECT((executor->stats().preemptions > 0) == evicts);
  }
}

void TestDeadlines() {
  ExecutorConfig config = SmallConfig();
  config.max_batch_size = 1;
  const auto executor = Executor::Create(TheModel(), config);
  const int64_t runs = executor->Enqueue(RequestOf(1, 200));
  Request waits = RequestOf(2), runs_out = RequestOf(3, 200);
  waits.queue_deadline_ms = 0;
  runs_out.deadline_ms = 0;
  const int64_t first = executor->Enqueue(waits), second = executor->Enqueue(runs_out);
  const Response queue = Only(*executor, first), total = Only(*executor, second);
  MLF_EXPECT(queue.finish_reason == FinishReason::kTimedOut && queue.tokens.empty());
  MLF_EXPECT(queue.error == "queue_deadline_ms is over");
  MLF_EXPECT(total.finish_reason == FinishReason::kTimedOut);
  MLF_EXPECT(total.error == "deadline_ms is over");
  MLF_EXPECT(Only(*executor, runs).tokens.size() == 200);
}

// ---- fork ---------------------------------------------------------------------------------------

/// 0 where each call refuses and the end of the child's executor and program is one.
int InChild(std::shared_ptr<Executor> executor) {
  const auto refuses = [](const auto& call) {
    try {
      call();
    } catch (const ffi::Error& error) {
      return error.kind() == "RuntimeError" &&
             std::string(error.message()).find("which has forked") != std::string::npos;
    }
    return false;
  };
  const bool all =
      refuses([&] { executor->Enqueue(RequestOf(1)); }) &&
      refuses([&] { executor->Await(0, std::nullopt); }) && refuses([&] { executor->Cancel(0); }) &&
      refuses([&] { executor->CanEnqueue(); }) && refuses([&] { executor->stats(); }) &&
      refuses([&] { executor->Loras(); }) && refuses([&] { executor->Shutdown(false); });
  executor.reset();
  return all ? 0 : 1;
}

void TestFork() {
  auto executor = Executor::Create(TheModel(), SmallConfig());
  const int64_t id = executor->Enqueue(RequestOf(1, 200));
  for (int times = 0; times < 5; ++times) {
    const pid_t child = fork();
    if (child == 0) _exit(InChild(std::move(executor)));
    int status = -1;
    MLF_EXPECT(waitpid(child, &status, 0) == child);
    MLF_EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  MLF_EXPECT(Only(*executor, id).tokens.size() == 200);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestOneRequestFails();
  mlf::TestAllFail();
  mlf::TestModelIsClosed();
  mlf::TestTwoExecutorsOnOneModel();
  mlf::TestPostProcessorFails();
  mlf::TestStepCallbackThrows();
  mlf::TestSlowReader();
  mlf::TestRefusals();
  mlf::TestFullCache();
  mlf::TestDeadlines();
  // qemu's own bookkeeping does not survive the fork of a process with threads.
  if (std::getenv("MLF_TEST_EMULATED") == nullptr) mlf::TestFork();
  return 0;
}
