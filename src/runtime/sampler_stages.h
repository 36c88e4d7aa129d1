// What a sampler does to the candidates of one row of logits, stage by stage. Counterpart:
// sampler_stages.cc.
#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

namespace mlf {

struct Candidate {
  int32_t id;
  float logit;
};

/// Tokens that may still be drawn. Stages narrow or change them; sorted by descending logit (ties:
/// lower id first) once a stage needed it.
struct Candidates {
  std::vector<Candidate> items;
  bool sorted = false;

  void Sort();
  void KeepFirst(size_t n) { items.resize(std::min(n, items.size())); }
};

/// Over the last `last_n` accepted tokens (−1: all). Repetition divides positive logits and
/// multiplies negative ones (Keskar et al., arXiv:1909.05858); frequency is subtracted per
/// occurrence, presence once.
struct PenaltiesStage {
  double repetition = 1, frequency = 0, presence = 0;
  int64_t last_n = 64;
};
struct LogitBiasStage {
  std::vector<std::pair<int64_t, double>> bias;  // −inf forbids a token
};
struct TemperatureStage {
  double temperature = 1;  // 0: only the best stays
};
struct TopKStage {
  int64_t k = 0;
};
/// The smallest set of best tokens whose probability reaches p (Holtzman et al., arXiv:1904.09751).
struct TopPStage {
  double p = 1;
};
/// Tokens with at least p times the best one's probability (Nguyen et al., arXiv:2407.01082).
struct MinPStage {
  double p = 0;
};
/// Tokens whose information is closest to the expected one, up to probability p (Meister et al.,
/// arXiv:2202.00666).
struct TypicalPStage {
  double p = 1;
};
/// Draws by probability. The n-th draw of a seed is one fixed uniform number.
struct DrawStage {
  std::optional<uint64_t> seed;
};
using SamplerStage = std::variant<PenaltiesStage, LogitBiasStage, TemperatureStage, TopKStage,
                                  TopPStage, MinPStage, TypicalPStage, DrawStage>;

/// ValueError naming the parameter that is negative, NaN, infinite or out of its range.
void CheckStage(const SamplerStage& stage);
/// ValueError naming the token that a vocabulary of `n_vocab` does not have.
void CheckTokens(const LogitBiasStage& stage, int64_t n_vocab);

/// exp(logit - max) of each candidate, not yet divided by their sum. +inf among them shares all the
/// mass. There must be a candidate.
std::vector<double> WeightsOf(const Candidates& candidates);

/// Narrows or changes candidates, of which there must be one; a Draw changes nothing. Penalties
/// look at `history`.
void ApplyStage(const SamplerStage& stage, Candidates& candidates,
                std::span<const int32_t> history);

/// The candidate at which the probability of those up to it, best first, exceeds `uniform`.
int32_t DrawFrom(Candidates& candidates, double uniform);
/// The best candidate: of equals that of the lowest id.
int32_t BestOf(const Candidates& candidates);

}  // namespace mlf
