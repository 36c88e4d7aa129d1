// Tests of src/runtime/sampler: stages on known logits, draws, numbers at the ends of their range.
#include "runtime/sampler.h"

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "check.h"

namespace mlf {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr float kInfF = std::numeric_limits<float>::infinity(),
                kNaN = std::numeric_limits<float>::quiet_NaN();

/// Ids that are left, best first.
std::vector<int32_t> Left(std::vector<SamplerStage> stages, const std::vector<float>& logits,
                          const std::vector<int32_t>& history = {}) {
  Sampler sampler;
  for (SamplerStage& stage : stages) sampler.Add(std::move(stage));
  for (const int32_t token : history) sampler.Accept(token);
  std::vector<int32_t> ids;
  double sum = 0;
  for (const auto& [id, p] : sampler.Probabilities(logits)) {
    MLF_EXPECT(p >= 0 && p <= 1);
    ids.push_back(id);
    sum += p;
  }
  MLF_EXPECT(std::fabs(sum - 1) < 1e-9);
  return ids;
}

using Ids = std::vector<int32_t>;

void TestStages() {
  const std::vector<float> logits = {0, 3, 1, 3, -kInfF, kNaN, 2};
  MLF_EXPECT((Left({}, logits) == Ids{1, 3, 6, 2, 0}));
  MLF_EXPECT((Left({TopKStage{3}}, logits) == Ids{1, 3, 6}));
  MLF_EXPECT((Left({TopKStage{1000}}, logits) == Ids{1, 3, 6, 2, 0}));
  MLF_EXPECT((Left({TemperatureStage{0}}, logits) == Ids{1}));
  MLF_EXPECT((Left({TopPStage{0.5}}, logits) == Ids{1, 3}));
  MLF_EXPECT((Left({TopPStage{1e-9}}, logits) == Ids{1}));
  MLF_EXPECT((Left({MinPStage{0.3}}, logits) == Ids{1, 3, 6}));
  MLF_EXPECT((Left({MinPStage{1}}, logits) == Ids{1, 3}));
  MLF_EXPECT((Left({LogitBiasStage{{{1, -kInf}, {0, 10}}}}, logits) == Ids{0, 3, 6, 2}));
  MLF_EXPECT((Left({PenaltiesStage{2, 0, 0, -1}}, logits, {1}) == Ids{3, 6, 1, 2, 0}));
  MLF_EXPECT((Left({PenaltiesStage{1, 1, 0, -1}}, logits, {3, 3}) == Ids{1, 6, 2, 3, 0}));
  MLF_EXPECT((Left({PenaltiesStage{1, 0, 9, 1}}, logits, {3, 6}) == Ids{1, 3, 2, 0, 6}));
  MLF_EXPECT(Left({TypicalPStage{0.1}}, logits).size() == 1);
}

void TestGreedy() {
  Sampler sampler;
  MLF_EXPECT(sampler.Sample(std::vector<float>{1, 5, 5, 2}) == 1);
  MLF_EXPECT(sampler.Sample(std::vector<float>{kNaN, -kInfF, -3}) == 2);
  MLF_EXPECT(sampler.Sample(std::vector<float>{0, kInfF}) == 1);
  MLF_EXPECT_THROWS(sampler.Sample(std::vector<float>{}), "ValueError", "no token is left");
  MLF_EXPECT_THROWS(sampler.Sample(std::vector<float>{kNaN, -kInfF}), "ValueError", "no token");
}

/// Draws follow the probabilities, and a seed's n-th draw is always the same.
void TestDraws() {
  Sampler sampler;
  sampler.Add(DrawStage{99});
  const std::vector<float> logits = {0, std::log(3.f), -kInfF, std::log(6.f)};
  constexpr int kDraws = 20000;
  std::vector<int32_t> drawn;
  int counts[4] = {};
  for (int i = 0; i < kDraws; ++i) {
    drawn.push_back(sampler.Sample(logits));
    ++counts[drawn.back()];
  }
  const double expected[4] = {0.1, 0.3, 0, 0.6};
  for (int i = 0; i < 4; ++i)
    MLF_EXPECT(std::fabs(counts[i] / double{kDraws} - expected[i]) < 0.02);
  sampler.Reset();
  for (const int32_t token : drawn) MLF_EXPECT(sampler.Sample(logits) == token);
}

/// Infinite and vanishing numbers leave an order: the best is drawn, nothing becomes NaN.
void TestExtremes() {
  const std::vector<float> high = {1, 5, 2}, low = {-5, -1, -2}, infinite = {0, kInfF, 1, kInfF};
  for (const double t : {1e-300, 1e-40, 1e-3}) {
    MLF_EXPECT((Left({TemperatureStage{t}, TopPStage{0.9}}, high) == Ids{1}));
    MLF_EXPECT((Left({TemperatureStage{t}, TopPStage{0.9}}, low) == Ids{1}));
  }
  MLF_EXPECT(Left({TemperatureStage{1e300}}, low).size() == 3);
  MLF_EXPECT((Left({TemperatureStage{0.5}, TopPStage{0.9}}, infinite) == Ids{1, 3}));
  MLF_EXPECT((Left({LogitBiasStage{{{1, -kInf}}}, TopPStage{0.9}}, infinite) == Ids{3}));
  MLF_EXPECT(
      (Left({LogitBiasStage{{{0, 1e300}}}, LogitBiasStage{{{0, -kInf}}}}, high) == Ids{1, 2}));
  // A penalty beyond float's range forbids the token.
  MLF_EXPECT((Left({PenaltiesStage{1, 1e308, 0, -1}}, infinite, {1, 1, 1}) == Ids{3, 2, 0}));
  std::vector<float> many(1000, kInfF);
  LogitBiasStage forbidden;
  for (int64_t id = 0; id < 1000; id += 2) forbidden.bias.emplace_back(id, -kInf);
  MLF_EXPECT(Left({forbidden}, many).size() == 500);
}

void TestRefused() {
  const auto add = [](SamplerStage stage) { Sampler().Add(std::move(stage)); };
  for (const double wrong : {std::nan(""), -1.0, kInf, -kInf}) {
    MLF_EXPECT_THROWS(add(TemperatureStage{wrong}), "ValueError", "temperature");
    MLF_EXPECT_THROWS(add(TopPStage{wrong}), "ValueError", "top_p");
    MLF_EXPECT_THROWS(add(MinPStage{wrong}), "ValueError", "min_p");
    MLF_EXPECT_THROWS(add(TypicalPStage{wrong}), "ValueError", "typical_p");
    MLF_EXPECT_THROWS(add(PenaltiesStage{wrong, 0, 0, 64}), "ValueError", "repetition_penalty");
    if (wrong == -1) continue;
    MLF_EXPECT_THROWS(add(PenaltiesStage{1, wrong, 0, 64}), "ValueError", "frequency_penalty");
    MLF_EXPECT_THROWS(add(PenaltiesStage{1, 0, wrong, 64}), "ValueError", "presence_penalty");
    if (wrong == -kInf) continue;
    MLF_EXPECT_THROWS(add(LogitBiasStage{{{0, wrong}}}), "ValueError", "logit_bias");
  }
  MLF_EXPECT_THROWS(add(TopKStage{0}), "ValueError", "top_k is 0");
  MLF_EXPECT_THROWS(add(TopPStage{0}), "ValueError", "top_p is 0");
  MLF_EXPECT_THROWS(add(PenaltiesStage{1, 0, 0, -2}), "ValueError", "last_n is -2");
  MLF_EXPECT_THROWS(add(LogitBiasStage{{{-1, 0}}}), "ValueError", "logit_bias token is -1");
  Sampler sampler;
  sampler.Add(LogitBiasStage{{{3, 1}}});
  const std::vector<float> three(3, 0);
  MLF_EXPECT_THROWS(sampler.Sample(three), "ValueError", "logit_bias token is 3");
  MLF_EXPECT(sampler.Sample(std::vector<float>(4, 0)) == 3);
}

/// Random stages over random rows, some of them with infinities: always a token of the row, and the
/// same one in any order of memory.
void TestRandomStages() {
  uint64_t drawn = 0;
  const auto below = [&](uint64_t n) { return RandomBits(3, ++drawn) % n; };
  for (int times = 0; times < 500; ++times) {
    std::vector<float> logits(1 + below(200));
    for (float& logit : logits) {
      const uint64_t kind = below(40);
      logit = kind == 0 ? kInfF : kind == 1 ? -kInfF : kind == 2 ? kNaN : below(1000) * 0.02f - 10;
    }
    Sampler sampler;
    for (uint64_t stages = below(6); stages > 0; --stages) {
      switch (below(8)) {
        case 0:
          sampler.Add(PenaltiesStage{0.5 + below(3), below(3) - 1.0, 0.5, 16});
          break;
        case 1:
          sampler.Add(LogitBiasStage{{{0, below(2) ? -kInf : 5.0}}});
          break;
        case 2:
          sampler.Add(TemperatureStage{below(5) * 0.5});
          break;
        case 3:
          sampler.Add(TopKStage{static_cast<int64_t>(1 + below(50))});
          break;
        case 4:
          sampler.Add(TopPStage{(1 + below(10)) * 0.1});
          break;
        case 5:
          sampler.Add(MinPStage{below(11) * 0.1});
          break;
        case 6:
          sampler.Add(TypicalPStage{(1 + below(10)) * 0.1});
          break;
        default:
          sampler.Add(DrawStage{below(100)});
      }
    }
    for (int i = 0; i < 3; ++i) {
      try {
        const int32_t token = sampler.Sample(logits);
        MLF_EXPECT(token >= 0 && token < static_cast<int32_t>(logits.size()));
        MLF_EXPECT(logits[token] > -kInfF);
        sampler.Accept(token);
      } catch (const tvm::ffi::Error& e) {
        MLF_EXPECT(e.kind() == "ValueError" && logits.size() < 4);
      }
    }
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestStages();
  mlf::TestGreedy();
  mlf::TestDraws();
  mlf::TestExtremes();
  mlf::TestRefused();
  mlf::TestRandomStages();
  return 0;
}
