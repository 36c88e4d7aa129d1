// Gated activations against float64.
#include "kernels/activation.h"

#include <limits>

#include "base/thread_pool.h"
#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr float kInf = std::numeric_limits<float>::infinity();

double Silu(double x) { return x < -700 ? 0 : x / (1 + std::exp(-x)); }
double Gelu(double x) { return x < -40 ? 0 : 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double GeluTanh(double x) {
  const double u = std::sqrt(2 / 3.141592653589793) * (x + 0.044715 * x * x * x);
  return u < -300 ? 0 : x / (1 + std::exp(-2 * u));
}

struct Case {
  double (*exact)(double);
  void (*kernel)(TensorView out, TensorView gate, TensorView up);
};
const Case kCases[] = {
    {Silu, [](TensorView o, TensorView g, TensorView u) { silu_mul_kernel(kCpu, o, g, u); }},
    {Gelu, [](TensorView o, TensorView g, TensorView u) { gelu_mul_kernel(kCpu, o, g, u, false); }},
    {GeluTanh,
     [](TensorView o, TensorView g, TensorView u) { gelu_mul_kernel(kCpu, o, g, u, true); }}};

/// One rounding of the output; of float also those of exponents up to 80. Relative, also where a
/// gate is negative and the usual formulas cancel.
template <typename T>
double Tolerance() {
  return std::is_same_v<T, float> ? 1e-5 : std::is_same_v<T, F16> ? 4.93e-4 : 3.92e-3;
}
/// Half of the least step of the dtype, and float's where it is subnormal.
template <typename T>
constexpr double kLeast = std::is_same_v<T, F16> ? 3e-8 : 1e-35;

template <typename T>
void TestSizes(const Case& c) {
  for (int64_t n : {0, 1, 15, 16, 17, 63, 64, 65, 1536, 8191, 8193, 40000}) {
    auto gate = RandomArray<T>({1, n}, n, 4.f);
    const auto up = RandomArray<T>({1, n}, n + 1);
    OwnedArray<T> out({1, n});
    c.kernel(out, gate, up);
    for (int64_t i = 0; i < n; ++i) {
      const double want = c.exact(gate.At(i)) * up.At(i);
      MLF_EXPECT(std::abs(out.At(i) - want) <= Tolerance<T>() * std::abs(want) + kLeast<T>);
    }
    const ThreadLimit one(1);
    c.kernel(gate, gate, up);
    MLF_EXPECT(SameBits(gate, out));
  }
}

void TestExtremes(const Case& c) {
  const float values[] = {0.f,   -0.f,   20.f,  -20.f,  87.f,  -87.f, -88.5f, -200.f, 10.1f,
                          -9.9f, -10.1f, -13.f, 1e4f,   -1e4f, 1e19f, -1e19f, 1e30f,  -1e30f,
                          13.3f, -13.3f, 3e38f, -3e38f, kInf,  -kInf, 1e-30f, -1e-30f};
  constexpr int64_t kCount = std::size(values);
  OwnedArray<float> gate({kCount}), up({kCount}), out({kCount});
  std::copy_n(values, kCount, gate.data.data());
  std::fill(up.data.begin(), up.data.end(), 1.f);
  c.kernel(out, gate, up);
  for (int64_t i = 0; i < kCount; ++i) {
    const double want = c.exact(gate[i]);
    MLF_EXPECT(out[i] == want || std::abs(out[i] - want) <= 1e-5 * std::abs(want) + 1e-35);
  }
  gate[3] = std::nanf("");
  c.kernel(out, gate, up);
  MLF_EXPECT(std::isnan(out[3]) && out[2] == 20.f);
  gate[3] = 1, up[4] = std::nanf("");
  c.kernel(out, gate, up);
  MLF_EXPECT(std::isnan(out[4]) && !std::isnan(out[3]));
}

}  // namespace
}  // namespace mlf

int main() {
  for (const mlf::Case& c : mlf::kCases) {
    mlf::TestSizes<float>(c);
    mlf::TestSizes<mlf::F16>(c);
    mlf::TestSizes<mlf::BF16>(c);
    mlf::TestExtremes(c);
  }
  return 0;
}
