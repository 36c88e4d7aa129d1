// From a row of logits to a token. Counterpart: sampler.cc.
#pragma once
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "runtime/sampler_stages.h"

namespace mlf {

/// Stages in the order in which they were added; without a Draw the best candidate is taken. One
/// thread at a time.
class Sampler {
 public:
  /// ValueError naming the parameter that is negative, NaN, infinite or out of its range.
  void Add(SamplerStage stage);

  /// The token for a row of logits. NaN counts as −inf; ValueError when no token is left with a
  /// finite logit.
  int32_t Sample(std::span<const float> logits);
  /// What Sample would draw from: all stages but Draw; ids and probabilities, best first.
  std::vector<std::pair<int32_t, double>> Probabilities(std::span<const float> logits);
  /// Adds to the history that penalties look at.
  void Accept(int32_t token);
  /// Forgets the history and starts the seed's numbers again.
  void Reset();

 private:
  Candidates Narrow(std::span<const float> logits);

  std::vector<SamplerStage> stages_;
  std::optional<uint64_t> seed_;  // engaged: draws
  uint64_t draws_ = 0;
  std::vector<int32_t> history_;
  std::atomic_flag in_use_ = ATOMIC_FLAG_INIT;
};

}  // namespace mlf
