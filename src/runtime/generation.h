// One prompt continued token by token. Counterpart: generation.cc.
#pragma once
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/context.h"
#include "runtime/finish_reason.h"
#include "runtime/sampler.h"
#include "runtime/stop_matcher.h"
#include "text/stream_decoder.h"

namespace mlf {

struct GenerationTimings {
  int64_t prompt_tokens = 0, generated_tokens = 0;
  double prompt_seconds = 0,
         generated_seconds = 0;  // the first generated token comes out of the prompt's pass
};

/// Sequence 0 of a context: prompt, then a token per step until an end token, a stop string,
/// max_new_tokens or a full context. One thread at a time.
class Generation {
 public:
  /// ValueError: a prompt that is empty, longer than the context or has a token out of range;
  /// negative max_new_tokens; empty stop string.
  Generation(std::shared_ptr<Context> context, std::shared_ptr<Sampler> sampler,
             std::vector<int64_t> prompt, int64_t max_new_tokens, std::vector<std::string> stops);

  /// The next piece of text, never empty and never half a character; nullopt at the end. Exceptions
  /// of Decode (Ctrl-C, a prompt longer than the context) come out and leave it where it was.
  std::optional<std::string> Next();

  // Not while Next runs on another thread: RuntimeError.
  std::vector<int32_t> tokens() const;  // generated, without the end token
  FinishReason finish_reason() const;
  GenerationTimings timings() const;

 private:
  std::string Step();
  std::string Finish(FinishReason reason);
  int32_t NextToken();

  std::shared_ptr<Context> context_;
  std::shared_ptr<Sampler> sampler_;
  std::vector<int64_t> pending_;  // not yet decoded: the prompt, later the last token
  int64_t max_new_tokens_;
  StreamDecoder decoder_;
  StopMatcher stop_matcher_;
  std::vector<int32_t> tokens_;
  FinishReason finish_reason_ = FinishReason::kNotFinished;
  GenerationTimings timings_;
  mutable std::atomic_flag in_use_ = ATOMIC_FLAG_INIT;
};

}  // namespace mlf
