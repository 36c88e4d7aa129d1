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

void TestExp2() {
  const auto exp2 = [](F32 x) { return baseline::Exp2(x); };
  const auto want = [](double x) { return std::exp2(x); };
  MLF_EXPECT(WorstError(exp2, want, 1e-30f, 127.4f) < 2.4e-7);
  MLF_EXPECT(WorstError(exp2, want, -1e-30f, -126.f) < 2.4e-7);
  MLF_EXPECT(At(exp2, 0.f) == 1 && At(exp2, 1.f) == 2 && At(exp2, -126.f) == 0x1p-126f);
  MLF_EXPECT(At(exp2, -kInf) == 0 && At(exp2, -126.6f) == 0 && At(exp2, -3e38f) == 0);
  for (uint32_t payload = 0; payload < 512; ++payload) {  // none of them reaches the exponent
    MLF_EXPECT(std::isnan(At(exp2, std::bit_cast<float>(0x7FC00000 | payload))));
    MLF_EXPECT(std::isnan(At(exp2, std::bit_cast<float>(0xFFC00000 | payload))));
  }
}

void TestNormalTail() {
  const auto tail = [](F32 x) { return baseline::NormalTail(x); };
  const auto want = [](double x) { return 0.5 * std::erfc(x / std::sqrt(2.0)); };
  MLF_EXPECT(WorstError(tail, want, 1e-30f, 5.5f) < 2e-6);
  MLF_EXPECT(WorstError(tail, want, 5.5f, 12.8f) < 1e-5);
  MLF_EXPECT(std::abs(At(tail, 0.f) - 0.5f) < 3e-7f && At(tail, 13.2f) < 1e-38f);
  MLF_EXPECT(At(tail, 13.2f) >= 0);
  MLF_EXPECT(std::isnan(At(tail, std::nanf(""))));
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestExp();
  mlf::TestTanh();
  mlf::TestLog();
  mlf::TestExp2();
  mlf::TestNormalTail();
  return 0;
}
