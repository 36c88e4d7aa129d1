// All output rows of a step, from logits to tokens, in one call. Counterparts: batch_sampler.cc,
// row_sampler.cc (one row).
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/logit_mask.h"
#include "runtime/sampling_params.h"

namespace mlf {

/// What one row is sampled with. Views and pointers live for the call.
struct RowInput {
  const SamplingParams* params = nullptr;  // checked by SamplingParams::Check
  uint64_t seed = 0, counter = 0;          // the draw is RandomUniform(seed, counter)
  std::span<const int32_t> history;        // prompt and answer, for penalties
  std::span<const int32_t> banned;         // tokens that may not come now (min_tokens)
  const int32_t* bitmask = nullptr;  // [ceil(n_vocab / 32)], bit i % 32 of word i / 32: allowed
  std::optional<float> temperature;  // instead of the parameters' one
  std::optional<float> ln_min_p;     // logarithm of min_p, instead of the parameters' one
  /// -1: no log-probabilities; 0: the token's; k: those of the k best tokens too.
  int64_t n_logprobs = -1;
  /// >= 0: nothing is drawn, only this token's log-probabilities are wanted (a prompt's token).
  int32_t given = -1;
  /// > 0: nothing is drawn; as many best tokens are wanted, for beams.
  int64_t n_candidates = 0;
};

struct TokenLogprob {
  int32_t token;
  float logprob;
};

struct RowOutput {
  int32_t token = -1;  // of candidates the best; -1 where `error` is set
  /// Of log_softmax of the logits as the model gave them: before penalties, bias, mask and
  /// temperature.
  float logprob = 0;
  std::vector<TokenLogprob> best;  // n_logprobs of the same, the best first; fewer where n_vocab is
  /// n_candidates, the best first, of log_softmax of the logits after penalties, bias, bans, mask
  /// and temperature (0 counts as 1 here); fewer where fewer tokens are left.
  std::vector<TokenLogprob> candidates;
  MaskStatus mask_status = kMaskOk;
  /// Part of softmax(logits / temperature), after penalties, bias and bans, on the tokens that the
  /// mask allows; 1 without a mask.
  float mask_fraction = 1;
  std::string error;  // why there is no token; empty where all is well
};

/// Samples rows of float32 logits [rows, stride] of which the first n_vocab elements of each count;
/// they are changed in place. Rows are spread over the pool; what comes of a row depends on its own
/// input alone. A row that cannot be sampled (NaN among its logits, no token left, a bad override)
/// gets an error text and harms no other.
///
/// The token is that of a Sampler with the same parameters and seed: bit for bit with top_k,
/// typical_p or temperature 0; without them sums are of float32 exponentials, so that the draw may
/// differ where the uniform number is within about 1e-6 of a boundary between two tokens. (A
/// Sampler takes NaN for -inf.)
void SampleRows(float* logits, int64_t stride, int64_t n_vocab, std::span<const RowInput> inputs,
                std::span<RowOutput> outputs);

}  // namespace mlf
