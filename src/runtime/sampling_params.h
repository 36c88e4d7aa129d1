// How a request is sampled: the C++ twin of Python's SamplingParams. Counterpart:
// sampling_params.cc.
#pragma once
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/sampler.h"

namespace mlf {

/// Always in this order: penalties, logit bias, mask, temperature, top-k, typical-p, top-p, min-p,
/// draw. What is not engaged leaves its stage out.
struct SamplingParams {
  double temperature = 1;  // 0: the best token
  std::optional<int64_t> top_k = std::nullopt;
  std::optional<double> top_p = std::nullopt, min_p = std::nullopt, typical_p = std::nullopt;
  std::optional<uint64_t> seed = std::nullopt;  // of the draws; none: the caller's choice
  double repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
  int64_t penalty_last_n = -1;  // tokens that penalties look at; -1: all
  std::vector<std::pair<int64_t, double>> logit_bias = {};  // by token; -inf forbids it

  /// ValueError naming the field that is out of its range, or the token that a vocabulary of
  /// `n_vocab` does not have.
  void Check(int64_t n_vocab) const;

  bool penalizes() const {
    return repetition_penalty != 1 || frequency_penalty != 0 || presence_penalty != 0;
  }
  /// What a Sampler of these parameters is made of, but the draw.
  std::vector<SamplerStage> Stages() const;
};

}  // namespace mlf
