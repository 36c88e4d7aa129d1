// Tests of src/runtime/batch_sampler and row_sampler: the tokens of a Sampler, masks, overrides,
// log-probabilities, faults that stay with their row.
#include "runtime/batch_sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "check.h"
#include "runtime/sampler.h"

namespace mlf {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr float kInfF = std::numeric_limits<float>::infinity(),
                kNaN = std::numeric_limits<float>::quiet_NaN();

using Row = std::vector<float>;

/// Numbers of one seed, one after another.
class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  uint64_t Below(uint64_t n) { return RandomBits(seed_, counter_++) % n; }
  double Uniform() { return RandomUniform(seed_, counter_++); }
  double Normal() {
    return std::sqrt(-2 * std::log(1 - Uniform())) * std::cos(6.283185307179586 * Uniform());
  }

 private:
  uint64_t seed_, counter_ = 0;
};

RowOutput SampleOne(Row logits, const RowInput& in) {
  RowOutput out;
  const auto n = static_cast<int64_t>(logits.size());
  SampleRows(logits.data(), n, n, {&in, 1}, {&out, 1});
  return out;
}

/// Flat, peaked or coarse (with many equals), some with -inf and +inf.
Row RandomRow(Random& random, int64_t n) {
  const double spread = random.Below(2) ? 1 : 4;
  const bool coarse = random.Below(4) == 0;
  const uint64_t special = random.Below(4);
  Row row(n);
  for (float& x : row) {
    const double value = random.Normal() * spread;
    x = static_cast<float>(coarse ? std::round(value * 4) / 4 : value);
    if (special == 0 && random.Below(8) == 0) x = -kInfF;
    if (special == 1 && random.Below(n) == 0) x = kInfF;
  }
  if (!(*std::max_element(row.begin(), row.end()) > -kInfF)) row[0] = 0;
  return row;
}

struct Case {
  SamplingParams params;
  std::vector<int32_t> history, banned;
  std::vector<int32_t> bitmask;
};

Case RandomCase(Random& random, int64_t n) {
  constexpr double kTemperatures[] = {0, 0.3, 0.8, 1, 1, 1.7, 1e-30, 30};
  Case c;
  SamplingParams& p = c.params;
  p.temperature = kTemperatures[random.Below(8)];
  if (random.Below(2))
    p.top_k = 1 + static_cast<int64_t>(random.Below(random.Below(2) ? 60 : n + 9));
  if (random.Below(2)) p.top_p = 0.01 + 0.99 * random.Uniform();
  if (random.Below(3) == 0) p.min_p = random.Uniform() * 0.2;
  if (random.Below(4) == 0) p.typical_p = 0.01 + 0.99 * random.Uniform();
  if (random.Below(2)) {
    p.repetition_penalty = 0.5 + random.Uniform() * 2;
    p.frequency_penalty = random.Uniform() - 0.3;
    p.presence_penalty = random.Uniform() - 0.3;
    p.penalty_last_n = static_cast<int64_t>(random.Below(40)) - 1;
  }
  for (uint64_t i = random.Below(60); i > 0; --i) {
    c.history.push_back(static_cast<int32_t>(random.Below(n)));
  }
  if (n > 8 && random.Below(3) == 0) p.logit_bias = {{1, 3.5}, {4, -kInf}, {7, -1}};
  if (n > 8 && random.Below(3) == 0) c.banned = {0, 3, -1, static_cast<int32_t>(n)};
  if (n > 1 && random.Below(3) == 0) {
    c.bitmask.resize((n + 31) / 32);
    for (int32_t& word : c.bitmask) word = static_cast<int32_t>(random.Below(uint64_t{1} << 32));
  }
  return c;
}

bool Allowed(const std::vector<int32_t>& bitmask, int64_t token) {
  return bitmask.empty() || (bitmask[token / 32] >> (token % 32) & 1) != 0;
}

/// The token of a Sampler whose bias forbids what is masked or banned; -1 where none is left.
int32_t OfSampler(const Row& row, const Case& c, uint64_t seed, uint64_t counter) {
  Sampler sampler;
  LogitBiasStage forbidden;
  for (size_t i = 0; i < row.size(); ++i) {
    if (!Allowed(c.bitmask, i)) forbidden.bias.emplace_back(i, -kInf);
  }
  for (const int32_t token : c.banned) {
    if (token >= 0 && token < static_cast<int32_t>(row.size())) {
      forbidden.bias.emplace_back(token, -kInf);
    }
  }
  for (const SamplerStage& stage : c.params.Stages()) {
    if (std::holds_alternative<TemperatureStage>(stage)) sampler.Add(forbidden);
    sampler.Add(stage);
  }
  sampler.Add(DrawStage{seed});
  for (const int32_t token : c.history) sampler.Accept(token);
  try {
    for (uint64_t i = 0; i < counter; ++i) sampler.Sample(row);
    return sampler.Sample(row);
  } catch (const tvm::ffi::Error&) {
    return -1;
  }
}

RowInput InputOf(const Case& c, uint64_t seed, uint64_t counter) {
  RowInput in;
  in.params = &c.params;
  in.seed = seed;
  in.counter = counter;
  in.history = c.history;
  in.banned = c.banned;
  in.bitmask = c.bitmask.empty() ? nullptr : c.bitmask.data();
  return in;
}

void TestSameTokensAsSampler() {
  Random random(1);
  int drawn = 0;
  for (const int64_t n : {1, 2, 31, 32, 33, 500, 1024, 5000, 16383, 16384, 16385, 40000}) {
    for (int times = n < 2000 ? 300 : 40; times > 0; --times) {
      const Row row = RandomRow(random, n);
      const Case c = RandomCase(random, n);
      c.params.Check(n);
      const uint64_t seed = random.Below(1 << 30), counter = random.Below(3);
      const RowOutput out = SampleOne(row, InputOf(c, seed, counter));
      MLF_EXPECT(out.token == OfSampler(row, c, seed, counter));
      MLF_EXPECT((out.token < 0) == !out.error.empty());
      drawn += out.token >= 0;
    }
  }
  MLF_EXPECT(drawn > 1500);
}

/// Many draws of one flat row, where float32 exponentials of thousands of tokens are summed.
void TestDrawsOfOneRow() {
  Random random(2);
  const Row row = RandomRow(random, 3000);
  for (const double temperature : {0.7, 1.0, 2.5}) {
    Case c;
    c.params.temperature = temperature;
    Sampler sampler;
    sampler.Add(TemperatureStage{temperature});
    sampler.Add(DrawStage{11});
    for (uint64_t i = 0; i < 1000; ++i) {
      MLF_EXPECT(SampleOne(row, InputOf(c, 11, i)).token == sampler.Sample(row));
    }
  }
}

/// Logits so small beside the best one that the temperature makes them equal: a Sampler puts the
/// lowest id first, whichever was larger before.
void TestEqualAfterTemperature() {
  Row row(300);
  for (size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(i) * 1e-9f;
  row[70] = 1;
  Case c;
  const auto expect_same = [&](double temperature) {
    c.params.temperature = temperature;
    for (uint64_t seed = 0; seed < 40; ++seed) {
      MLF_EXPECT(SampleOne(row, InputOf(c, seed, 0)).token == OfSampler(row, c, seed, 0));
    }
  };
  for (const double temperature : {0.6, 1.0, 3.0}) {
    c.params.top_k = std::nullopt;
    expect_same(temperature);
    c.params.top_k = 20;
    expect_same(temperature);
  }
}

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

bool Same(const RowOutput& a, const RowOutput& b) {
  const auto same_list = [](const std::vector<TokenLogprob>& x,
                            const std::vector<TokenLogprob>& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const auto& s, const auto& t) {
      return s.token == t.token && SameBits(s.logprob, t.logprob);
    });
  };
  return a.token == b.token && SameBits(a.logprob, b.logprob) && same_list(a.best, b.best) &&
         same_list(a.candidates, b.candidates) && a.mask_status == b.mask_status &&
         SameBits(a.mask_fraction, b.mask_fraction) && a.error == b.error;
}

/// Rows of one call, alone, and on one thread: the same bits; what lies behind a row is not read.
void TestRowsDoNotTouchEachOther() {
  constexpr int64_t kVocab = 33000, kStride = kVocab + 5, kRows = 21;
  Random random(3);
  std::vector<Row> rows;
  std::vector<Case> cases;
  for (int64_t r = 0; r < kRows; ++r) {
    rows.push_back(RandomRow(random, kVocab));
    cases.push_back(RandomCase(random, kVocab));
  }
  rows[4][9] = kNaN;
  std::vector<RowInput> inputs;
  for (int64_t r = 0; r < kRows; ++r) {
    inputs.push_back(InputOf(cases[r], r, r));
    inputs[r].n_logprobs = r % 4 - 1;
    inputs[r].n_candidates = r % 5 == 0 ? 6 : 0;
  }
  const auto sample = [&] {
    std::vector<float> logits(kRows * kStride, kNaN);
    for (int64_t r = 0; r < kRows; ++r) {
      std::copy(rows[r].begin(), rows[r].end(), logits.begin() + r * kStride);
    }
    std::vector<RowOutput> outputs(kRows);
    for (RowOutput& out : outputs) {  // what is left of a call before
      out.error = "old";
      out.best.resize(3);
    }
    SampleRows(logits.data(), kStride, kVocab, inputs, outputs);
    return outputs;
  };
  const std::vector<RowOutput> together = sample();
  {
    const ThreadLimit limit(1);
    const std::vector<RowOutput> one_thread = sample();
    for (int64_t r = 0; r < kRows; ++r) MLF_EXPECT(Same(together[r], one_thread[r]));
  }
  for (int64_t r = 0; r < kRows; ++r) MLF_EXPECT(Same(together[r], SampleOne(rows[r], inputs[r])));
  MLF_EXPECT(together[4].token == -1 && together[4].mask_status == kMaskBadLogits);
  MLF_EXPECT(together[3].error.empty() && together[5].error.empty());
  SampleRows(nullptr, kStride, kVocab, {}, {});
}

/// log_softmax in double.
std::vector<double> LogSoftmax(const Row& row, double temperature = 1) {
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float x : row) sum += std::exp((x - max) / temperature);
  std::vector<double> out;
  for (const float x : row) out.push_back((x - max) / temperature - std::log(sum));
  return out;
}

void TestLogprobs() {
  Random random(4);
  for (const int64_t n : {1, 40, 20000}) {
    Row row(n);
    for (float& x : row) x = static_cast<float>(random.Normal() * 3);
    const std::vector<double> expected = LogSoftmax(row);
    Case c;  // none of these changes what is reported
    c.params.repetition_penalty = 3;
    c.params.temperature = 0.5;
    c.params.logit_bias = {{0, 200}};
    c.history = {0, 0, static_cast<int32_t>(n - 1)};
    RowInput in = InputOf(c, 1, 1);
    in.n_logprobs = 5;
    const RowOutput out = SampleOne(row, in);
    const auto near = [&](const TokenLogprob& t) {
      return std::fabs(t.logprob - expected[t.token]) < 1e-5;
    };
    MLF_EXPECT(out.token == 0 && near({out.token, out.logprob}));
    MLF_EXPECT(out.best.size() == static_cast<size_t>(std::min<int64_t>(5, n)));
    for (size_t i = 0; i < out.best.size(); ++i) {
      MLF_EXPECT(near(out.best[i]));
      MLF_EXPECT(i == 0 || row[out.best[i].token] <= row[out.best[i - 1].token]);
    }
    RowInput given;  // needs no parameters
    given.given = static_cast<int32_t>(n - 1);
    const RowOutput of_given = SampleOne(row, given);
    MLF_EXPECT(of_given.token == n - 1 && near({of_given.token, of_given.logprob}));
    MLF_EXPECT(of_given.best.empty());
    given.given = static_cast<int32_t>(n);
    MLF_EXPECT(SampleOne(row, given).error.find("token " + std::to_string(n)) == 0);
  }
}

/// What beams get: of the logits after penalties, bias, bans, mask and temperature.
void TestCandidates() {
  Random random(5);
  Row row(1000);
  for (float& x : row) x = static_cast<float>(random.Normal());
  Case c;
  c.params.presence_penalty = 2;
  c.params.temperature = 0.5;
  c.params.logit_bias = {{8, 9}};
  c.history = {3};
  c.banned = {5};
  c.bitmask.assign(32, 0x7FFFFFFF);  // not 31, 63, …
  RowInput in = InputOf(c, 0, 0);
  in.n_candidates = 12;
  const RowOutput out = SampleOne(row, in);
  Row changed = row;
  changed[3] -= 2;
  changed[8] += 9;
  changed[5] = -kInfF;
  for (size_t i = 31; i < row.size(); i += 32) changed[i] = -kInfF;
  const std::vector<double> expected = LogSoftmax(changed, 0.5);
  std::vector<int32_t> order(row.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return changed[a] > changed[b]; });
  MLF_EXPECT(out.candidates.size() == 12 && out.token == 8);
  for (size_t i = 0; i < 12; ++i) {
    MLF_EXPECT(out.candidates[i].token == order[i]);
    MLF_EXPECT(std::fabs(out.candidates[i].logprob - expected[order[i]]) < 1e-5);
  }
  c.bitmask.assign(32, 0);
  c.bitmask[2] = 3;
  const RowOutput two = SampleOne(row, in);
  MLF_EXPECT(two.candidates.size() == 2 && two.error.empty());
}

void TestMaskFraction() {
  const Row row = {0, std::log(3.f), std::log(6.f), -kInfF};
  Case c;
  c.bitmask = {0b1011};
  const auto fraction = [&](double temperature, std::optional<float> other) {
    c.params.temperature = temperature;
    RowInput in = InputOf(c, 0, 0);
    in.temperature = other;
    in.ln_min_p = std::log(0.9f);  // does not count
    const RowOutput out = SampleOne(row, in);
    MLF_EXPECT(out.token == 1 && out.mask_status == kMaskOk);
    return out.mask_fraction;
  };
  MLF_EXPECT(std::fabs(fraction(1, {}) - 0.4) < 1e-6);
  MLF_EXPECT(std::fabs(fraction(0, {}) - 0.4) < 1e-6);
  MLF_EXPECT(std::fabs(fraction(1, 0.5f) - 10.0 / 46) < 1e-6);
  c.bitmask = {-1};
  RowInput in = InputOf(c, 0, 0);
  MLF_EXPECT(SampleOne(row, in).mask_fraction == 1);
  in.bitmask = nullptr;
  MLF_EXPECT(SampleOne(row, in).mask_fraction == 1);
}

void TestOverrides() {
  const Row row = {1, 1.5f, 1.4f, 1.3f};
  const Case c;
  RowInput in = InputOf(c, 5, 0);
  in.temperature = 0.f;
  for (in.counter = 0; in.counter < 50; ++in.counter) MLF_EXPECT(SampleOne(row, in).token == 1);
  in.temperature = std::nullopt;
  in.ln_min_p = 0.f;
  for (in.counter = 0; in.counter < 50; ++in.counter) MLF_EXPECT(SampleOne(row, in).token == 1);
  in.ln_min_p = -kInfF;  // none
  bool seen[4] = {};
  for (in.counter = 0; in.counter < 99; ++in.counter) seen[SampleOne(row, in).token] = true;
  MLF_EXPECT(seen[0] && seen[1] && seen[2] && seen[3]);
}

void ExpectError(const Row& row, const RowInput& in, const char* part, MaskStatus status) {
  const RowOutput out = SampleOne(row, in);
  MLF_EXPECT(out.token == -1 && out.error.find(part) != std::string::npos);
  MLF_EXPECT(out.mask_status == status);
}

void TestFaultsOfARow() {
  Case c;
  RowInput in = InputOf(c, 0, 0);
  for (const int64_t n_logprobs : {-1, 2}) {
    in.n_logprobs = n_logprobs;
    ExpectError({1, kNaN, 2}, in, "NaN", kMaskBadLogits);
    ExpectError({-kInfF, -kInfF}, in, "-inf only", kMaskBadLogits);
    ExpectError({}, in, "the vocabulary is empty", kMaskOk);
  }
  c.history = {1};
  c.banned = {1};
  c.params.frequency_penalty = 1;
  ExpectError({1, kNaN, 2}, InputOf(c, 0, 0), "NaN", kMaskBadLogits);  // not hidden by a ban
  c.banned = {0, 1, 2};
  ExpectError({1, 0, 2}, InputOf(c, 0, 0), "bans leave no token", kMaskBadLogits);
  c.banned = {0};
  c.bitmask = {1};
  ExpectError({1, 0, 2}, InputOf(c, 0, 0), "the mask leaves no token", kMaskEmpty);
  c.bitmask = {};
  in = InputOf(c, 0, 0);
  for (const float wrong : {-1.f, kNaN, kInfF}) {
    in.temperature = wrong;
    ExpectError({1, 0, 2}, in, "temperature is", kMaskOk);
  }
  in.temperature = 1;
  for (const float wrong : {1.f, kNaN, kInfF}) {
    in.ln_min_p = wrong;
    ExpectError({1, 0, 2}, in, "ln_min_p is", kMaskOk);
  }
}

/// Tokens of the history that the vocabulary does not have are passed over, and counts are
/// forgotten from row to row.
void TestHistory() {
  Case c;
  c.params.temperature = 0;
  c.params.frequency_penalty = 1;
  c.history = {-1, 99, INT32_MAX, 0, 0};
  for (int times = 0; times < 3; ++times) {
    MLF_EXPECT(SampleOne({3, 1.5f, 0.5f}, InputOf(c, 0, 0)).token == 1);
    MLF_EXPECT(SampleOne({3.6f, 1.5f, 0.5f}, InputOf(c, 0, 0)).token == 0);
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestSameTokensAsSampler();
  mlf::TestDrawsOfOneRow();
  mlf::TestEqualAfterTemperature();
  mlf::TestRowsDoNotTouchEachOther();
  mlf::TestLogprobs();
  mlf::TestCandidates();
  mlf::TestMaskFraction();
  mlf::TestOverrides();
  mlf::TestFaultsOfARow();
  mlf::TestHistory();
  return 0;
}
