// What a sampler does to the candidates of one row of logits, stage by stage. Counterpart:
// sampler_stages.h.
#include "runtime/sampler_stages.h"

#include <tvm/ffi/tvm_ffi.h>

#include <cmath>
#include <limits>
#include <unordered_map>

#include "base/quote.h"
#include "kernels/penalties.h"

namespace mlf {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

float MaxLogit(const Candidates& c) {
  if (c.sorted) return c.items.front().logit;
  return std::max_element(c.items.begin(), c.items.end(),
                          [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; })
      ->logit;
}

double Sum(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v;
  return sum;
}

/// Drops −inf, and the NaN that infinities make of each other: neither has a place in an order.
void DropImpossible(Candidates& c) {
  std::erase_if(c.items, [](const Candidate& item) { return !(item.logit > kMinusInf); });
}

/// Sorts the best n to the front and drops the others.
void KeepBest(Candidates& c, size_t n) {
  if (!c.sorted && n < c.items.size()) {
    std::nth_element(c.items.begin(), c.items.begin() + static_cast<int64_t>(n), c.items.end(),
                     Better);
  }
  if (c.sorted || n < c.items.size()) c.KeepFirst(n);
  c.Sort();
}

// ---- stages: Apply(stage, candidates, history) --------------------------------------------------

void Apply(const PenaltiesStage& stage, Candidates& c, std::span<const int32_t> history) {
  const size_t n =
      stage.last_n < 0 ? history.size() : std::min<size_t>(history.size(), stage.last_n);
  std::unordered_map<int32_t, int> counts;
  for (size_t i = history.size() - n; i < history.size(); ++i) ++counts[history[i]];
  if (counts.empty()) return;
  for (Candidate& item : c.items) {
    const auto found = counts.find(item.id);
    if (found == counts.end()) continue;
    item.logit = static_cast<float>(
        Penalized(item.logit, found->second, stage.repetition, stage.frequency, stage.presence));
  }
  DropImpossible(c);
  c.sorted = false;
}

void Apply(const LogitBiasStage& stage, Candidates& c, std::span<const int32_t>) {
  std::unordered_map<int64_t, double> bias(stage.bias.begin(), stage.bias.end());
  for (Candidate& item : c.items) {
    const auto found = bias.find(item.id);
    if (found != bias.end()) item.logit = static_cast<float>(item.logit + found->second);
  }
  DropImpossible(c);
  c.sorted = false;
}

void Apply(const TemperatureStage& stage, Candidates& c, std::span<const int32_t>) {
  if (stage.temperature == 0) return KeepBest(c, 1);
  // Differences to the best: with a temperature near 0, quotients would all become infinite.
  const float max = MaxLogit(c);
  for (Candidate& item : c.items) {
    const double below = item.logit == max ? 0 : static_cast<double>(item.logit) - max;
    item.logit = static_cast<float>(below / stage.temperature);
  }
}

void Apply(const TopKStage& stage, Candidates& c, std::span<const int32_t>) {
  KeepBest(c, static_cast<size_t>(stage.k));
}

void Apply(const TopPStage& stage, Candidates& c, std::span<const int32_t>) {
  if (stage.p >= 1) return;
  c.Sort();
  const std::vector<double> weights = WeightsOf(c);
  const double wanted = stage.p * Sum(weights);
  double sum = 0;
  size_t n = 0;
  while (n < weights.size() && sum < wanted) sum += weights[n++];
  c.KeepFirst(std::max<size_t>(n, 1));
}

void Apply(const MinPStage& stage, Candidates& c, std::span<const int32_t>) {
  if (stage.p == 0) return;
  const double least = static_cast<double>(MaxLogit(c)) + std::log(stage.p);
  const float max = MaxLogit(c);
  std::erase_if(c.items,
                [&](const Candidate& item) { return item.logit < least && item.logit != max; });
}

void Apply(const TypicalPStage& stage, Candidates& c, std::span<const int32_t>) {
  if (stage.p >= 1) return;
  c.Sort();
  std::vector<double> p = WeightsOf(c);
  const double total = Sum(p);
  double entropy = 0;
  for (double& v : p) {
    v /= total;
    if (v > 0) entropy -= v * std::log(v);
  }
  std::vector<size_t> order(p.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto distance = [&](size_t i) {
    return p[i] > 0 ? std::fabs(-std::log(p[i]) - entropy) : HUGE_VAL;
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return distance(a) < distance(b); });
  std::vector<Candidate> kept;
  double sum = 0;
  for (size_t i = 0; i < order.size() && (sum < stage.p || kept.empty()); ++i) {
    sum += p[order[i]];
    kept.push_back(c.items[order[i]]);
  }
  c.items = std::move(kept);
  c.sorted = false;
}

void Apply(const DrawStage&, Candidates&, std::span<const int32_t>) {}

// ---- checks -------------------------------------------------------------------------------------

template <typename Number>
void Check(bool ok, const char* name, Number value, const char* expected) {
  if (!ok)
    TVM_FFI_THROW(ValueError) << "sampler: " << name << " is " << Shortest(value) << ", expected "
                              << expected;
}
void CheckFinite(const char* name, double value) {
  Check(std::isfinite(value), name, value, "a finite number");
}

void Validate(const PenaltiesStage& s) {
  Check(std::isfinite(s.repetition) && s.repetition > 0, "repetition_penalty", s.repetition,
        "a number > 0");
  CheckFinite("frequency_penalty", s.frequency);
  CheckFinite("presence_penalty", s.presence);
  Check(s.last_n >= -1, "last_n", s.last_n, "a count, or -1 for all");
}
void Validate(const LogitBiasStage& s) {
  for (const auto& [id, bias] : s.bias) {
    Check(id >= 0 && id <= INT32_MAX, "logit_bias token", id, "a token id");
    Check(!std::isnan(bias) && bias != HUGE_VAL, "logit_bias", bias, "a number or -inf");
  }
}
void Validate(const TemperatureStage& s) {
  Check(std::isfinite(s.temperature) && s.temperature >= 0, "temperature", s.temperature,
        "a number >= 0");
}
void Validate(const TopKStage& s) { Check(s.k >= 1, "top_k", s.k, "a count >= 1"); }
void Validate(const TopPStage& s) { Check(s.p > 0 && s.p <= 1, "top_p", s.p, "0 < top_p <= 1"); }
void Validate(const MinPStage& s) { Check(s.p >= 0 && s.p <= 1, "min_p", s.p, "0 <= min_p <= 1"); }
void Validate(const TypicalPStage& s) {
  Check(s.p > 0 && s.p <= 1, "typical_p", s.p, "0 < typical_p <= 1");
}
void Validate(const DrawStage&) {}

}  // namespace

void CheckStage(const SamplerStage& stage) {
  std::visit([](const auto& s) { Validate(s); }, stage);
}

void CheckTokens(const LogitBiasStage& stage, int64_t n_vocab) {
  for (const auto& [id, bias] : stage.bias) {
    Check(id < n_vocab, "logit_bias token", id, "a token of the vocabulary");
  }
}

void Candidates::Sort() {
  if (!sorted) std::sort(items.begin(), items.end(), Better);
  sorted = true;
}

std::vector<double> WeightsOf(const Candidates& c) {
  const float max = MaxLogit(c);
  std::vector<double> weights;
  weights.reserve(c.items.size());
  for (const Candidate& item : c.items) {
    weights.push_back(item.logit == max ? 1 : std::exp(static_cast<double>(item.logit) - max));
  }
  return weights;
}

void ApplyStage(const SamplerStage& stage, Candidates& c, std::span<const int32_t> history) {
  std::visit([&](const auto& s) { Apply(s, c, history); }, stage);
}

int32_t DrawFrom(Candidates& c, double uniform) {
  c.Sort();  // the draw must not depend on how earlier stages left the order
  const std::vector<double> weights = WeightsOf(c);
  double left = uniform * Sum(weights);
  size_t last = 0;  // that may be drawn, should rounding leave something after all of them
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) last = i;
    left -= weights[i];
    if (left < 0) break;
  }
  return c.items[last].id;
}

int32_t BestOf(const Candidates& c) {
  return std::min_element(c.items.begin(), c.items.end(), Better)->id;
}

}  // namespace mlf
