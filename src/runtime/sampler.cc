// From a row of logits to a token. Counterpart: sampler.h.
#include "runtime/sampler.h"

#include <tvm/ffi/tvm_ffi.h>

#include <limits>
#include <numeric>
#include <random>

#include "base/rng.h"
#include "kernels/sampling.h"
#include "runtime/exclusive.h"

namespace mlf {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

uint64_t FreshSeed() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

}  // namespace

void Sampler::Add(SamplerStage stage) {
  const ExclusiveUse exclusive(in_use_, "Sampler");
  CheckStage(stage);
  if (const auto* draw = std::get_if<DrawStage>(&stage))
    seed_ = draw->seed ? *draw->seed : FreshSeed();
  stages_.push_back(std::move(stage));
}

Candidates Sampler::Narrow(std::span<const float> logits) {
  Candidates c;
  c.items.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kMinusInf)
      c.items.push_back({static_cast<int32_t>(i), logits[i]});  // drops NaN too
  }
  const auto check = [&] {
    if (c.items.empty())
      TVM_FFI_THROW(ValueError) << "sampler: no token is left with a logit above -inf";
  };
  check();
  for (const SamplerStage& stage : stages_) {
    if (const auto* bias = std::get_if<LogitBiasStage>(&stage)) {
      CheckTokens(*bias, static_cast<int64_t>(logits.size()));
    }
    ApplyStage(stage, c, history_);
    check();
  }
  return c;
}

int32_t Sampler::Sample(std::span<const float> logits) {
  const ExclusiveUse exclusive(in_use_, "Sampler");
  if (stages_.empty()) {  // greedy: no list of candidates
    int32_t id = 0;
    const ArrayView row(const_cast<float*>(logits.data()), kF32,
                        {1, static_cast<int64_t>(logits.size())});
    argmax_kernel(row.device(), ArrayView(&id, kI32, {1}), row);
    if (logits.empty() || !(logits[id] > kMinusInf)) {
      TVM_FFI_THROW(ValueError) << "sampler: no token is left with a logit above -inf";
    }
    return id;
  }
  Candidates c = Narrow(logits);
  return seed_ ? DrawFrom(c, RandomUniform(*seed_, draws_++)) : BestOf(c);
}

std::vector<std::pair<int32_t, double>> Sampler::Probabilities(std::span<const float> logits) {
  const ExclusiveUse exclusive(in_use_, "Sampler");
  Candidates c = Narrow(logits);
  c.Sort();
  const std::vector<double> weights = WeightsOf(c);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::pair<int32_t, double>> result;
  for (size_t i = 0; i < weights.size(); ++i) result.emplace_back(c.items[i].id, weights[i] / sum);
  return result;
}

void Sampler::Accept(int32_t token) {
  const ExclusiveUse exclusive(in_use_, "Sampler");
  history_.push_back(token);
}

void Sampler::Reset() {
  const ExclusiveUse exclusive(in_use_, "Sampler");
  history_.clear();
  draws_ = 0;
}

}  // namespace mlf
