// Functions of lanes against float64: dense samples of every binade, ends of the ranges, NaN. This
// is the baseline level; the ops that use them are tested at every level.
#define MLF_LEVEL baseline
#include "base/simd_math.h"

#include <bit>
#include <cmath>
#include <limits>

#include "check.h"

namespace mlf {
namespace {

using baseline::F32;
constexpr float kInf = std::numeric_limits<float>::infinity();

/// Largest error relative to the true value, over floats from `from` to `to` of one sign; a value
/// below `floor` counts as the floor.
template <typename Fn, typename Want>
double WorstError(Fn fn, Want want, float from, float to, double floor = 1e-37) {
  double worst = 0;
  const uint32_t begin = std::bit_cast<uint32_t>(from), end = std::bit_cast<uint32_t>(to);
  const uint32_t step = (end - begin) / 400000 + 1;
  for (uint64_t bits = begin; bits <= end; bits += 16 * uint64_t{step}) {
    float in[16], out[16];
    for (uint64_t i = 0; i < 16; ++i) {
      in[i] = std::bit_cast<float>(static_cast<uint32_t>(std::min<uint64_t>(end, bits + i * step)));
    }
    baseline::Store(out, fn(baseline::Load(in)));
    for (int i = 0; i < 16; ++i) {
      const double exact = want(static_cast<double>(in[i]));
      worst = std::max(worst, std::abs(out[i] - exact) / std::max(std::abs(exact), floor));
    }
  }
  return worst;
}

template <typename Fn>
float At(Fn fn, float x) {
  float out[16];
  baseline::Store(out, fn(baseline::Set(x)));
  for (float lane : out) MLF_EXPECT(std::memcmp(&lane, out, sizeof lane) == 0);
  return out[0];
}

void TestExp() {
  const auto exp = [](F32 x) { return baseline::Exp(x); };
  const auto want = [](double x) { return std::exp(x); };
  MLF_EXPECT(WorstError(exp, want, 1e-30f, 88.f) < 2.4e-7);
  MLF_EXPECT(WorstError(exp, want, -1e-30f, -87.3f) < 2.4e-7);
  MLF_EXPECT(At(exp, -kInf) == 0 && At(exp, -88.f) == 0 && At(exp, 0.f) == 1);
  MLF_EXPECT(std::isnan(At(exp, std::nanf(""))));
}

void TestTanh() {
  const auto tanh = [](F32 x) { return baseline::Tanh(x); };
  const auto want = [](double x) { return std::tanh(x); };
  MLF_EXPECT(WorstError(tanh, want, 1e-36f, 30.f) < 4e-7);
  MLF_EXPECT(WorstError(tanh, want, -1e-36f, -30.f) < 4e-7);
  MLF_EXPECT(At(tanh, kInf) == 1 && At(tanh, -kInf) == -1 && At(tanh, 9.1f) == 1);
  MLF_EXPECT(At(tanh, 0.f) == 0 && std::signbit(At(tanh, -0.f)));
  MLF_EXPECT(At(tanh, 1e-42f) == 1e-42f);  // subnormals are themselves
  MLF_EXPECT(std::isnan(At(tanh, std::nanf(""))));
}

void TestLog() {
  const auto log = [](F32 x) { return baseline::Log(x); };
  const auto want = [](double x) { return std::log(x); };
  MLF_EXPECT(WorstError(log, want, 1e-45f, 3.4e38f) < 2e-7);
  MLF_EXPECT(WorstError(log, want, 0.99f, 1.01f) < 2e-7);  // about the zero
  MLF_EXPECT(At(log, 1.f) == 0 && At(log, 0.f) == -kInf && At(log, -0.f) == -kInf);
  MLF_EXPECT(At(log, kInf) == kInf && std::isnan(At(log, -1.f)) && std::isnan(At(log, -kInf)));
  MLF_EXPECT(std::isnan(At(log, std::nanf(""))));
}

void TestNormalCdf() {
  const auto cdf = [](F32 x) { return baseline::NormalCdf(x); };
  const auto want = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  MLF_EXPECT(WorstError(cdf, want, 1e-30f, 40.f) < 5e-7);
  MLF_EXPECT(WorstError(cdf, want, -1e-30f, -5.5f) < 1.2e-6);  // the level without fused products
  MLF_EXPECT(WorstError(cdf, want, -5.5f, -12.9f) < 6e-6);
  MLF_EXPECT(At(cdf, 0.f) == 0.5f && At(cdf, kInf) == 1 && At(cdf, -kInf) == 0);
  MLF_EXPECT(std::isnan(At(cdf, std::nanf(""))));
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestExp();
  mlf::TestTanh();
  mlf::TestLog();
  mlf::TestNormalCdf();
  return 0;
}
