// Penalties for tokens that were seen: op and CPU kernel. Counterpart: penalties.h.
#include "kernels/penalties.h"

#include <cmath>
#include <vector>

#include "base/dtype.h"
#include "base/thread_pool.h"
#include "kernels/row_parameters.h"

namespace mlf {
namespace {

constexpr int64_t kGrain = 4096;  // tokens per chunk: 10 us, above a wake-up

struct Penalty {
  float repetition, frequency, presence;
};

/// `counts`, one per token of the vocabulary, is zero before and after.
template <typename T>
void PenalizeRow(T* logits, const int32_t* tokens, int64_t n, const Penalty& p,
                 std::vector<int32_t>& counts) {
  for (int64_t i = 0; i < n; ++i) {
    if (tokens[i] >= 0) ++counts[tokens[i]];
  }
  for (int64_t i = 0; i < n; ++i) {
    if (tokens[i] < 0 || counts[tokens[i]] == 0) continue;
    T& logit = logits[tokens[i]];
    logit = FromFloat<T>(static_cast<float>(Penalized(static_cast<float>(logit), counts[tokens[i]],
                                                      p.repetition, p.frequency, p.presence)));
    counts[tokens[i]] = 0;
  }
}

void ApplyPenaltiesCpu(TensorView logits, TensorView tokens, OptionalTensor repetition,
                       OptionalTensor frequency, OptionalTensor presence) {
  const int64_t rows = logits.size(0), vocab = logits.size(1), n = tokens.size(1);
  const RowParameter<float> repetitions(repetition, 1), frequencies(frequency, 0),
      presences(presence, 0);
  const int32_t* seen = Data<const int32_t>(tokens);
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    T* x = Data<T>(logits);
    ParallelFor(rows, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
      std::vector<int32_t> counts(vocab);
      for (int64_t r = begin; r < end; ++r) {
        const Penalty penalty{repetitions[r], frequencies[r], presences[r]};
        PenalizeRow(x + r * vocab, seen + r * n, n, penalty, counts);
      }
    });
  });
}

[[maybe_unused]] const bool kFilled = apply_penalties_kernel.SetCpu(ApplyPenaltiesCpu);

const Op kApplyPenalties{
    "apply_penalties",
    "(logits: Mut['rows vocab', 'f32 f16 bf16'], tokens: T['rows seen', 'i32'], repetition: "
    "T['rows', 'f32'] | None = None, frequency: T['rows', 'f32'] | None = None, presence: "
    "T['rows', 'f32'] | None = None) -> None",
    R"(Makes tokens that were seen less likely, in place.

For each token of a row of `tokens`, first ``logit / repetition`` if the logit is positive, else
``logit * repetition``, once however often it was seen (Keskar et al., arXiv:1909.05858); then
``logit - count * frequency - presence``, as OpenAI's API defines these two. Computed in float64 and
rounded once. Other logits keep their bits. Engines that count the prompt for one penalty and not
for another call this twice.

logits: Written in place.
tokens: What was seen, in any order; each is in the vocabulary, or -1 as padding. On CUDA, where
    they are not looked at before, others are passed over too.
repetition: Above 0 and finite, 1 for none, also where None.
frequency: Per occurrence; finite, 0 for none, also where None; negative ones make it more likely.
presence: Once; finite, 0 for none, also where None; negative ones make it more likely.
)"};

void ApplyPenalties(TensorView logits, TensorView tokens, OptionalTensor repetition,
                    OptionalTensor frequency, OptionalTensor presence) {
  kApplyPenalties.Check(logits, tokens, repetition, frequency, presence);
  const int64_t vocab = logits.size(1);
  CheckValues<int32_t>(
      kApplyPenalties, "tokens", tokens, [&](int32_t t) { return t >= -1 && t < vocab; },
      "a token of logits, or -1 as padding");
  CheckValues<float>(
      kApplyPenalties, "repetition", repetition, [](float p) { return p > 0 && std::isfinite(p); },
      "a finite number above 0");
  const auto finite = [](float p) { return std::isfinite(p); };
  CheckValues<float>(kApplyPenalties, "frequency", frequency, finite, "a finite number");
  CheckValues<float>(kApplyPenalties, "presence", presence, finite, "a finite number");
  if (logits.numel() == 0 || tokens.numel() == 0) return;
  apply_penalties_kernel(logits.device(), logits, tokens, repetition, frequency, presence);
}

TVM_FFI_STATIC_INIT_BLOCK() { kApplyPenalties.Register(ApplyPenalties); }

}  // namespace
}  // namespace mlf
