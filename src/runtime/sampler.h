// From a row of logits to a token. Counterpart: sampler.cc.
#pragma once
#include <algorithm>
#include <atomic>
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
