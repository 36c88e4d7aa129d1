// How a request is sampled. Counterpart: sampling_params.h.
#include "runtime/sampling_params.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>

namespace mlf {

std::vector<SamplerStage> SamplingParams::Stages() const {
  std::vector<SamplerStage> stages;
  if (penalizes()) {
    stages.push_back(
        PenaltiesStage{repetition_penalty, frequency_penalty, presence_penalty, penalty_last_n});
  }
  if (!logit_bias.empty()) stages.push_back(LogitBiasStage{logit_bias});
  stages.push_back(TemperatureStage{temperature});
  if (top_k) stages.push_back(TopKStage{*top_k});
  if (typical_p) stages.push_back(TypicalPStage{*typical_p});
  if (top_p) stages.push_back(TopPStage{*top_p});
  if (min_p) stages.push_back(MinPStage{*min_p});
  return stages;
}

void SamplingParams::Check(int64_t n_vocab) const {
  if (penalty_last_n < -1) {
    TVM_FFI_THROW(ValueError) << "sampling: penalty_last_n is " << penalty_last_n
                              << ", expected a count, or -1 for all";
  }
  for (const SamplerStage& stage : Stages()) {
    CheckStage(stage);
    if (const auto* bias = std::get_if<LogitBiasStage>(&stage)) CheckTokens(*bias, n_vocab);
  }
  std::vector<int64_t> tokens;
  for (const auto& [token, bias] : logit_bias) tokens.push_back(token);
  std::sort(tokens.begin(), tokens.end());
  const auto twice = std::adjacent_find(tokens.begin(), tokens.end());
  if (twice != tokens.end()) {
    TVM_FFI_THROW(ValueError) << "sampling: logit_bias names token " << *twice << " twice";
  }
}

}  // namespace mlf
