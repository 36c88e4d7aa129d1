// SiLU times up against float64.
#include "kernels/activation.h"

#include <limits>

#include "base/thread_pool.h"
#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};

double Silu(double x) { return x < -700 ? 0 : x / (1 + std::exp(-x)); }

void TestSiluMul(int64_t n) {
  auto gate = RandomArray<float>({1, n}, n, 6.f);
  const auto up = RandomArray<float>({1, n}, n + 1);
  OwnedArray<float> out({1, n});
  silu_mul_kernel(kCpu, out, gate, up);
  for (int64_t i = 0; i < n; ++i) {
    const double want = Silu(gate[i]) * up[i];
    MLF_EXPECT(std::abs(out[i] - want) <= 1e-6 * std::abs(want) + 1e-12);
  }
  const ThreadLimit one(1);
  silu_mul_kernel(kCpu, gate, gate, up);
  MLF_EXPECT(SameBits(gate, out));
}

void TestExtremes() {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float values[] = {0.f,  -0.f,  20.f,  -20.f,  87.f,   -87.f, -88.5f, -200.f,
                          1e4f, -1e4f, 1e30f, -1e30f, -3e38f, kInf,  -kInf};
  constexpr int64_t kCount = std::size(values);
  OwnedArray<float> gate({kCount}), up({kCount}), out({kCount});
  std::copy_n(values, kCount, gate.data.data());
  std::fill(up.data.begin(), up.data.end(), 1.f);
  silu_mul_kernel(kCpu, out, gate, up);
  for (int64_t i = 0; i < kCount; ++i) {
    const double want = Silu(gate[i]);
    MLF_EXPECT(out[i] == want || std::abs(out[i] - want) <= 1e-6 * std::abs(want) + 1e-35);
  }
  gate[3] = std::nanf("");
  silu_mul_kernel(kCpu, out, gate, up);
  MLF_EXPECT(std::isnan(out[3]) && out[2] == 20.f);
}

}  // namespace
}  // namespace mlf

int main() {
  for (int64_t n : {0, 1, 15, 16, 17, 1536, 8191, 8193, 40000}) mlf::TestSiluMul(n);
  mlf::TestExtremes();
  return 0;
}
