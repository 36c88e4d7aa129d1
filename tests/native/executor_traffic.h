// Random requests for an executor, and a post-processor that does with some of them what it should
// not. Used by executor_*_test.cc.
#pragma once
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "base/rng.h"
#include "executor_ledger.h"
#include "runtime/executor.h"
#include "temp_dir.h"
#include "tiny_adapter.h"
#include "tiny_model.h"

namespace mlf::test {

/// Draws from a seed, one after the other.
class Dice {
 public:
  explicit Dice(uint64_t seed) : seed_(seed) {}
  int64_t Below(int64_t n) {
    return static_cast<int64_t>(RandomBits(seed_, ++count_) % static_cast<uint64_t>(n));
  }
  bool OneIn(int64_t n) { return Below(n) == 0; }

 private:
  const uint64_t seed_;
  uint64_t count_ = 0;
};

/// The adapters that requests name, as files.
class Adapters {
 public:
  Adapters() {
    const auto model = LoadTiny();
    for (uint64_t i = 0; i < 3; ++i) dir_.Write(kNames[i], AdapterBytes(*model, {.seed = i + 1}));
  }
  void LoadInto(Executor& executor) const {
    for (const char* name : kNames) executor.LoadLora(name, dir_.Path(name));
  }
  /// The one that no request that repeats uses.
  void Reload(Executor& executor) const {
    executor.UnloadLora(kNames[2]);
    executor.LoadLora(kNames[2], dir_.Path(kNames[2]));
  }

 private:
  static constexpr const char* kNames[] = {"first", "second", "third"};
  TempDir dir_;
};

/// What the post-processor does with a request: its client_id.
enum Behaviour : int64_t {
  kMasks,   // always the same tokens
  kForces,  // three tokens
  kWarms,   // another temperature
  kSleeps,  // for a moment
  kCallsBack,
  kForbidsAll,
  kFails,   // its own entry
  kThrows,  // out of the whole call
  kBehaviours
};

inline Tokens RandomPrompt(Dice& dice, int64_t most) {
  // Often one of a few texts, so that prefixes are found.
  const auto text = TinyText(most, dice.OneIn(3) ? dice.Below(1 << 30) : dice.Below(3));
  return {text.begin(), text.begin() + 1 + dice.Below(most)};
}

inline void AddSoftTokens(Request& request, Dice& dice) {
  const int64_t rows = 1 + dice.Below(5);
  request.prompt_table_cols = kTinyEmbd;
  for (int64_t i = 0; i < rows * kTinyEmbd; ++i) {
    request.prompt_table.push_back(static_cast<float>(dice.Below(200) - 100) / 100);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const auto place = static_cast<size_t>(dice.Below(static_cast<int64_t>(request.tokens.size())));
    request.tokens[place] = static_cast<int32_t>(kTinyTokens + i);
  }
}

inline void AskForEmbedding(Request& request, Dice& dice) {
  request.pooling = static_cast<Pooling>(1 + dice.Below(3));
  request.normalize = dice.OneIn(2);
  request.num_return_sequences = request.beam_width = 1;
  request.best_of = request.prompt_logprobs = request.logprobs = request.min_tokens = 0;
  request.stop_words.clear();
  request.stop_token_ids.clear();
  request.streaming = request.use_logits_post_processor = false;
}

/// One that gives the same tokens whenever it comes to its end.
inline Request RepeatableRequest(uint64_t seed, bool post_processor) {
  Dice dice(RandomBits(seed, 77));
  Request request;
  request.tokens = RandomPrompt(dice, dice.OneIn(4) ? 120 : 40);
  request.max_new_tokens = dice.OneIn(20) ? 0 : 1 + dice.Below(dice.OneIn(5) ? 60 : 12);
  request.sampling.seed = seed;
  request.sampling.temperature = dice.OneIn(4) ? 0 : 0.25 * static_cast<double>(1 + dice.Below(6));
  if (dice.OneIn(3)) request.sampling.top_k = 1 + dice.Below(50);
  if (dice.OneIn(3)) request.sampling.top_p = 0.9;
  if (dice.OneIn(4)) request.sampling.min_p = 0.02;
  if (dice.OneIn(4)) request.sampling.repetition_penalty = 1.2;
  if (dice.OneIn(4)) request.sampling.logit_bias = {{dice.Below(kTinyTokens), 3.0}};
  if (dice.OneIn(3)) request.stop_words = {"a", "bc", " d"};
  if (dice.OneIn(4)) request.stop_token_ids = {static_cast<int32_t>(dice.Below(kTinyTokens))};
  if (dice.OneIn(5)) request.min_tokens = dice.Below(request.max_new_tokens + 1);
  request.ignore_eos = dice.OneIn(5);
  if (dice.OneIn(5)) request.logprobs = 1 + dice.Below(5);
  if (dice.OneIn(8)) request.prompt_logprobs = 1 + dice.Below(3);
  if (dice.OneIn(4)) request.num_return_sequences = 1 + dice.Below(4);
  if (dice.OneIn(8)) request.best_of = request.num_return_sequences + dice.Below(3);
  if (post_processor && dice.OneIn(3)) {
    request.use_logits_post_processor = true;
    request.client_id = dice.Below(kCallsBack + 1);
  }
  if (dice.OneIn(8) && !request.use_logits_post_processor && request.max_new_tokens > 0) {
    request.beam_width = 2 + dice.Below(3);
    request.num_return_sequences = 1 + dice.Below(request.beam_width);
    request.best_of = request.logprobs = 0;
    request.stop_words.clear();
    request.sampling.top_k.reset();
    request.sampling.top_p.reset();
    request.sampling.min_p.reset();
  }
  const bool ranked = request.beam_width > 1 || request.best_of > request.num_return_sequences;
  request.streaming = !ranked && dice.OneIn(2);
  request.priority = static_cast<double>(dice.Below(3));
  if (dice.OneIn(5)) request.lora = dice.OneIn(2) ? "first" : "second";
  if (dice.OneIn(6)) request.attention_window = 8 + dice.Below(40);
  if (dice.OneIn(6)) request.sink_tokens = dice.Below(5);
  if (dice.OneIn(8)) AddSoftTokens(request, dice);
  if (dice.OneIn(8)) AskForEmbedding(request, dice);
  return request;
}

/// One that may do anything.
inline Request WildRequest(uint64_t seed, bool post_processor) {
  Dice dice(RandomBits(seed, 78));
  Request request = RepeatableRequest(seed, post_processor);
  if (dice.OneIn(2)) request.sampling.seed.reset();
  if (dice.OneIn(6)) request.deadline_ms = static_cast<double>(dice.Below(30));
  if (dice.OneIn(8)) request.queue_deadline_ms = static_cast<double>(dice.Below(20));
  if (dice.OneIn(10) && request.prompt_table.empty()) request.tokens = RandomPrompt(dice, 230);
  if (dice.OneIn(10)) request.max_new_tokens = 200;
  request.min_tokens = std::min(request.min_tokens, request.max_new_tokens);
  if (request.use_logits_post_processor) request.client_id = dice.Below(kBehaviours);
  if (dice.OneIn(12)) request.cache_salt = "salt";
  if (dice.OneIn(12)) request.lora = "third";
  return request;
}

/// A post-processor that acts as the requests' client_id says.
class Misbehaviour {
 public:
  /// What kCallsBack calls.
  void SetCallBack(std::function<void()> call_back) {
    const std::lock_guard<std::mutex> lock(mutex_);
    call_back_ = std::move(call_back);
  }

  void operator()(const MaskEntries& entries) {
    for (const auto& entry : entries) {
      if (!entry->is_final) Act(*entry);
    }
  }

 private:
  void Act(MaskEntry& entry) {
    switch (entry.client_id) {
      case kMasks:
        return Fill(entry, 0x5A5A5A5A);
      case kForces:
        entry.forced_tokens = {kTinyFirstLetter, kTinyFirstLetter + 1, kTinyFirstLetter + 2};
        return;
      case kWarms:
        entry.temperature = 1.5;
        entry.ln_min_p = std::log(0.01);
        return;
      case kSleeps:
        return std::this_thread::sleep_for(std::chrono::milliseconds(1));
      case kCallsBack:
        return CallBack();
      case kForbidsAll:
        return Fill(entry, 0);
      case kFails:
        entry.error = "this one fails";
        return;
      case kThrows:
        throw std::runtime_error("all of these fail");
      default:
        return;
    }
  }

  static void Fill(MaskEntry& entry, int32_t word) {
    std::fill_n(static_cast<int32_t*>(entry.bitmask.data_ptr()), entry.bitmask.size(0), word);
  }

  void CallBack() {
    std::function<void()> call_back;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      call_back = call_back_;
    }
    if (call_back) call_back();
  }

  std::mutex mutex_;
  std::function<void()> call_back_;
};

}  // namespace mlf::test
