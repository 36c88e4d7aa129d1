// Tests of src/runtime/sampling_params: what is refused, and by which name.
#include "runtime/sampling_params.h"

#include <cmath>
#include <limits>

#include "check.h"

namespace mlf {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

template <typename Set>
SamplingParams With(Set set) {
  SamplingParams params;
  set(params);
  return params;
}

void TestAccepted() {
  SamplingParams().Check(1);
  const SamplingParams all{.temperature = 0,
                           .top_k = 1,
                           .top_p = 1,
                           .min_p = 0,
                           .typical_p = 1,
                           .seed = ~uint64_t{0},
                           .repetition_penalty = 1e-3,
                           .frequency_penalty = -2,
                           .presence_penalty = 2,
                           .penalty_last_n = 0,
                           .logit_bias = {{0, -kInf}, {9, 1}}};
  all.Check(10);
  MLF_EXPECT(all.penalizes() && all.Stages().size() == 7);
  MLF_EXPECT(!SamplingParams().penalizes() && SamplingParams().Stages().size() == 1);
  MLF_EXPECT(std::holds_alternative<PenaltiesStage>(all.Stages()[0]));
  MLF_EXPECT(std::holds_alternative<MinPStage>(all.Stages()[6]));
}

void TestRefused() {
  using P = SamplingParams;
  for (const double wrong : {std::nan(""), -1.0, kInf, -kInf}) {
    const auto expect = [&](auto set, const char* name) {
      MLF_EXPECT_THROWS(With(set).Check(10), "ValueError", name);
    };
    expect([&](P& p) { p.temperature = wrong; }, "temperature is");
    expect([&](P& p) { p.top_p = wrong; }, "top_p is");
    expect([&](P& p) { p.min_p = wrong; }, "min_p is");
    expect([&](P& p) { p.typical_p = wrong; }, "typical_p is");
    expect([&](P& p) { p.repetition_penalty = wrong; }, "repetition_penalty is");
    if (wrong == -1) continue;
    expect([&](P& p) { p.frequency_penalty = wrong; }, "frequency_penalty is");
    expect([&](P& p) { p.presence_penalty = wrong; }, "presence_penalty is");
    if (wrong == -kInf) continue;
    expect([&](P& p) { p.logit_bias = {{1, wrong}}; }, "logit_bias is");
  }
  const auto expect = [](auto set, const char* part) {
    MLF_EXPECT_THROWS(With(set).Check(10), "ValueError", part);
  };
  expect([](P& p) { p.top_k = 0; }, "top_k is 0");
  expect([](P& p) { p.top_p = 0; }, "top_p is 0");
  expect([](P& p) { p.penalty_last_n = -2; }, "penalty_last_n is -2");
  expect([](P& p) { p.logit_bias = {{-1, 0}}; }, "logit_bias token is -1");
  expect([](P& p) { p.logit_bias = {{10, 0}}; }, "logit_bias token is 10");
  expect([](P& p) { p.logit_bias = {{3, 0}, {4, 0}, {3, 1}}; }, "logit_bias names token 3 twice");
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestAccepted();
  mlf::TestRefused();
  return 0;
}
