// One output row, from logits to a token. Counterpart: row_sampler.h.
#include "runtime/row_sampler.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"
#include "kernels/penalties.h"

namespace mlf {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int64_t kUsualPlaces = 256;  // that a draw without top_k looks at: most end within
constexpr int64_t kMaskBits = 32;
// Beyond these a quotient of logits leaves the range of float, and all candidates are looked at.
constexpr double kLeastUsual = 1e-20, kMostUsual = 1e20;

const uint32_t* Words(const int32_t* bitmask, int64_t begin = 0) {
  return bitmask == nullptr ? nullptr
                            : reinterpret_cast<const uint32_t*>(bitmask) + begin / kMaskBits;
}

/// ln of a part of a softmax whose largest logit is `max`; 0 below it for every +inf.
double Below(float logit, float max) { return logit == max ? 0 : double{logit} - max; }

/// As TemperatureStage has it.
float Scaled(float logit, float max, double temperature) {
  return static_cast<float>(Below(logit, max) / temperature);
}

/// Further from a logit than those that TemperatureStage makes equal to it, or to a better one.
double Slack(float logit, float max, double temperature) {
  return (double{max} - logit) * 0x1p-22 + temperature * 0x1p-146;
}

float Under(float logit, double slack) {
  return std::nextafter(static_cast<float>(logit - slack), -kInf);
}
float Over(float logit, double slack) {
  return std::nextafter(static_cast<float>(logit + slack), kInf);
}

/// Zero in every place between uses, so that a row costs as much as its history, not as its
/// vocabulary.
std::vector<int32_t>& Counts(int64_t n_vocab) {
  thread_local std::vector<int32_t> counts;
  if (static_cast<int64_t>(counts.size()) < n_vocab) counts.resize(n_vocab);
  return counts;
}

constexpr const char* kBadLogits = "the logits hold a NaN, or -inf only";
constexpr const char* kNoneLeft = "penalties, bias and bans leave no token";

void Fail(MaskStatus status, const char* why, RowOutput* out) {
  out->mask_status = status;
  out->mask_fraction = 0;
  out->error = why;
}

double CheckedTemperature(const RowInput& in) {
  const double temperature = in.temperature ? double{*in.temperature} : in.params->temperature;
  if (!(temperature >= 0) || std::isinf(temperature)) {
    TVM_FFI_THROW(ValueError) << "temperature is " << temperature << ", expected a number >= 0";
  }
  return temperature;
}

double CheckedMinP(const RowInput& in) {
  if (!in.ln_min_p) return in.params->min_p.value_or(0);
  if (!(*in.ln_min_p <= 0)) {
    TVM_FFI_THROW(ValueError) << "ln_min_p is " << *in.ln_min_p << ", expected a number <= 0";
  }
  return std::exp(double{*in.ln_min_p});
}

}  // namespace

// ---- what the model gave ------------------------------------------------------------------------

RowSampler::Extremes RowSampler::FindExtremes(const int32_t* bitmask) {
  std::vector<LogitExtremes> found(RowBlockCount(n_));
  blocks_.For(n_, [&](int64_t b, int64_t begin, int64_t count) {
    logit_extremes_f32(&found[b], x_ + begin, Words(bitmask, begin), count);
  });
  Extremes all{false, -kInf, -kInf, 0};
  for (size_t b = 0; b < found.size(); ++b) {
    all.has_nan |= found[b].has_nan;
    all.any = std::max(all.any, found[b].any);
    if (found[b].allowed > all.allowed) {
      all.allowed = found[b].allowed;
      all.block = static_cast<int64_t>(b);
    }
  }
  return all;
}

bool RowSampler::ReadLogprobs(const RowInput& in, RowOutput* out) {
  const Extremes extremes = FindExtremes(nullptr);
  if (extremes.has_nan || extremes.any == -kInf) return false;
  raw_max_ = extremes.any;
  raw_log_mass_ = std::log(MassOf(x_, n_, raw_max_, 1, -kInf, blocks_));
  std::vector<uint64_t> ranks;
  TopRanks(x_, n_, in.n_logprobs, &ranks);
  for (const uint64_t rank : ranks) out->best.push_back({IdOf(rank), RawLogprob(IdOf(rank))});
  return true;
}

float RowSampler::RawLogprob(int32_t token) const {
  float logit = x_[token];
  for (const auto& [edited, before] : edited_) {
    if (edited != token) continue;
    logit = before;
    break;
  }
  return static_cast<float>(Below(logit, raw_max_) - raw_log_mass_);
}

// ---- penalties, bias, bans ----------------------------------------------------------------------

void RowSampler::Edit(int32_t token, double logit) {
  float& at = x_[token];
  if (std::isnan(at)) return;  // a fault of the row, not to be hidden
  edited_.emplace_back(token, at);
  // NaN is what infinities make of each other.
  at = std::isnan(logit) ? -kInf : static_cast<float>(logit);
}

void RowSampler::ApplyPenalties(const SamplingParams& params, std::span<const int32_t> history) {
  if (params.penalty_last_n >= 0) {
    history = history.last(std::min<size_t>(history.size(), params.penalty_last_n));
  }
  edited_.reserve(history.size());  // so that nothing throws while counts are not zero
  std::vector<int32_t>& counts = Counts(n_);
  const auto known = [&](int32_t token) { return token >= 0 && token < n_; };
  for (const int32_t token : history) {
    if (known(token)) ++counts[token];
  }
  for (const int32_t token : history) {
    if (!known(token) || counts[token] == 0) continue;
    Edit(token, Penalized(x_[token], counts[token], params.repetition_penalty,
                          params.frequency_penalty, params.presence_penalty));
    counts[token] = 0;
  }
}

void RowSampler::ApplyEdits(const RowInput& in) {
  if (in.params->penalizes()) ApplyPenalties(*in.params, in.history);
  for (const auto& [token, bias] : in.params->logit_bias) {
    Edit(static_cast<int32_t>(token), x_[token] + bias);
  }
  for (const int32_t token : in.banned) {
    if (token >= 0 && token < n_) Edit(token, -kInf);
  }
}

// ---- mask, best tokens --------------------------------------------------------------------------

float RowSampler::MaskFraction(const int32_t* bitmask, float max, double temperature) const {
  const auto divisor = static_cast<float>(temperature);
  const float inverse = divisor > 1e-30f ? 1 / divisor : 1;  // of the best token alone: of all
  std::vector<MaskMass> masses(RowBlockCount(n_));
  const MaskScaling scaling{max, inverse, 0, 1, -kInf};
  blocks_.For(n_, [&](int64_t b, int64_t begin, int64_t count) {
    masked_mass_f32(&masses[b], x_ + begin, Words(bitmask, begin), count, scaling);
  });
  MaskMass sum{0, 0};
  for (const MaskMass& mass : masses) {
    sum.any += mass.any;
    sum.allowed += mass.allowed;
  }
  return static_cast<float>(sum.allowed / sum.any);
}

int32_t RowSampler::First(const int32_t* bitmask, const Extremes& extremes) const {
  const int64_t begin = extremes.block * kRowBlock, count = std::min(kRowBlock, n_ - begin);
  return static_cast<int32_t>(
      begin + first_allowed_f32(x_ + begin, Words(bitmask, begin), count, extremes.allowed));
}

void RowSampler::ListCandidates(int64_t count, float max, double temperature, RowOutput* out) {
  if (temperature == 0) temperature = 1;
  std::vector<uint64_t> ranks;
  TopRanks(x_, n_, count, &ranks);
  double log_mass = std::log(MassOf(
      x_, n_, max, static_cast<float>(std::clamp(temperature, 1e-30, 1e30)), -kInf, blocks_));
  for (const uint64_t rank : ranks) {
    const int32_t token = IdOf(rank);
    if (!(x_[token] > -kInf)) break;
    const double logprob = Below(x_[token], max) / temperature - log_mass;
    out->candidates.push_back({token, static_cast<float>(logprob)});
  }
}

void RowSampler::Run(const RowInput& in, RowOutput* out) {
  const bool wants_logprobs = in.n_logprobs >= 0 || in.given >= 0;
  if (wants_logprobs && !ReadLogprobs(in, out)) return Fail(kMaskBadLogits, kBadLogits, out);
  if (in.given >= n_) {
    TVM_FFI_THROW(ValueError) << "token " << in.given << " is not in [0, " << n_ << ')';
  }
  if (in.given < 0)
    Choose(in, out);
  else
    out->token = in.given;
  if (wants_logprobs && out->token >= 0) out->logprob = RawLogprob(out->token);
}

void RowSampler::Choose(const RowInput& in, RowOutput* out) {
  const double temperature = CheckedTemperature(in), min_p = CheckedMinP(in);
  ApplyEdits(in);
  const Extremes extremes = FindExtremes(in.bitmask);
  if (extremes.has_nan || extremes.any == -kInf) {
    const bool all_edited = !extremes.has_nan && !edited_.empty();
    return Fail(kMaskBadLogits, all_edited ? kNoneLeft : kBadLogits, out);
  }
  if (extremes.allowed == -kInf) return Fail(kMaskEmpty, "the mask leaves no token", out);
  if (in.bitmask != nullptr) {
    out->mask_fraction = MaskFraction(in.bitmask, extremes.any, temperature);
  }
  if (temperature == 0 && in.n_candidates <= 0) {
    out->token = First(in.bitmask, extremes);
    return;
  }
  if (in.bitmask != nullptr) {
    blocks_.For(n_, [&](int64_t, int64_t begin, int64_t count) {
      apply_bitmask_f32(x_ + begin, Words(in.bitmask, begin), count);
    });
  }
  if (in.n_candidates <= 0) {
    out->token = Draw(in, extremes.allowed, temperature, min_p);
    return;
  }
  ListCandidates(in.n_candidates, extremes.allowed, temperature, out);
  out->token = out->candidates.front().token;
}

// ---- draws --------------------------------------------------------------------------------------

Candidates RowSampler::Gather(const GroupPeaks& peaks, float low, float high) const {
  int32_t ids[GroupPeaks::kMaxStretch];
  Candidates c;
  peaks.ForStretchesAbove(low, [&](int64_t begin, int64_t count) {
    const int64_t found = gather_between(ids, x_ + begin, count, low, high);
    for (int64_t i = 0; i < found; ++i) {
      const auto id = static_cast<int32_t>(begin + ids[i]);
      c.items.push_back({id, x_[id]});
    }
  });
  return c;
}

Candidates RowSampler::GatherAll() const {
  Candidates c;
  for (int64_t i = 0; i < n_; ++i) {
    if (x_[i] > -kInf) c.items.push_back({static_cast<int32_t>(i), x_[i]});
  }
  return c;
}

int32_t RowSampler::Draw(const RowInput& in, float max, double temperature, double min_p) {
  const SamplingParams& p = *in.params;
  const double uniform = RandomUniform(in.seed, in.counter);
  const bool usual = std::isfinite(max) && temperature >= kLeastUsual && temperature <= kMostUsual;
  const bool cut = p.top_k && *p.top_k < n_, typical = p.typical_p.value_or(1) < 1;
  Candidates c;
  if (usual && (cut || !typical)) {
    const GroupPeaks peaks(x_, n_);
    if (!cut) return DrawRanked(peaks, p, temperature, min_p, uniform);
    const float floor = peaks.FloorOf(*p.top_k);
    if (floor > -kInf) c = Gather(peaks, Under(floor, Slack(floor, max, temperature)), kInf);
  }
  if (c.items.empty()) c = GatherAll();
  ApplyStage(TemperatureStage{temperature}, c, {});
  if (p.top_k) ApplyStage(TopKStage{*p.top_k}, c, {});
  if (p.typical_p) ApplyStage(TypicalPStage{*p.typical_p}, c, {});
  if (p.top_p) ApplyStage(TopPStage{*p.top_p}, c, {});
  if (min_p > 0) ApplyStage(MinPStage{min_p}, c, {});
  return DrawFrom(c, uniform);
}

int32_t RowSampler::DrawRanked(const GroupPeaks& peaks, const SamplingParams& params,
                               double temperature, double min_p, double uniform) {
  const auto divisor = static_cast<float>(temperature);
  Ranking ranking(x_, n_, peaks, divisor, kUsualPlaces, blocks_);
  Ranking::Place end{ranking.Mass(-kInf), -kInf, 0};
  if (params.top_p.value_or(1) < 1) end = ranking.Reach(*params.top_p * end.mass);
  if (min_p > 0) {
    const auto least = static_cast<float>(peaks.max() + temperature * std::log(min_p));
    if (least > end.logit) end.mass = ranking.Mass(least);
  }
  return AmongEquals(peaks, ranking.Exceed(uniform * end.mass), temperature);
}

/// Among tokens that the temperature makes equal a Sampler puts the lowest id first; the ranking
/// goes by the logits before.
int32_t RowSampler::AmongEquals(const GroupPeaks& peaks, const Ranking::Place& place,
                                double temperature) const {
  const float max = peaks.max(), scaled = Scaled(place.logit, max, temperature);
  const double slack = Slack(place.logit, max, temperature);
  std::vector<uint64_t> ranks;
  bool differ = false;
  const Candidates near = Gather(peaks, Under(place.logit, slack), Over(place.logit, slack));
  for (const Candidate& c : near.items) {
    if (Scaled(c.logit, max, temperature) != scaled) continue;
    differ |= c.logit != place.logit;
    ranks.push_back(RankOf(c.logit, c.id));
  }
  if (!differ) return place.id;
  std::sort(ranks.begin(), ranks.end());
  const auto at = std::find(ranks.begin(), ranks.end(), RankOf(place.logit, place.id));
  const auto nth = at - ranks.begin();
  std::nth_element(ranks.begin(), ranks.begin() + nth, ranks.end(),
                   [](uint64_t a, uint64_t b) { return IdOf(a) < IdOf(b); });
  return IdOf(ranks[nth]);
}

}  // namespace mlf
