// Gated activations on CUDA, in the emulator, through the ops: float64 references.
#include <limits>

#include "check.h"
#include "cuda_array.h"
#include "cuda_emulator.h"
#include "kernels/activation.h"
#include "kernels/cuda_elements_launch.h"

namespace mlf {
namespace {

double Silu(double x) { return x < -700 ? 0 : x / (1 + std::exp(-x)); }
double Gelu(double x) { return x < -40 ? 0 : 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double GeluTanh(double x) {
  const double u = std::sqrt(2 / 3.141592653589793) * (x + 0.044715 * x * x * x);
  return u < -300 ? 0 : x / (1 + std::exp(-2 * u));
}

struct Case {
  double (*exact)(double);
  const char* op;
  const char* approximate;

  void Run(const TensorView& gate, const TensorView& up, const TensorView& out) const {
    const ffi::Function f = ffi::Function::GetGlobalRequired(std::string("my_llm_ffi.") + op);
    approximate == nullptr ? f(gate, up, out) : f(gate, up, out, ffi::String(approximate));
  }
};
const Case kCases[] = {
    {Silu, "silu_mul", nullptr}, {Gelu, "gelu_mul", "none"}, {GeluTanh, "gelu_mul", "tanh"}};

template <typename T>
double Tolerance() {  // one rounding of the output; of float also that of the exponent
  return std::is_same_v<T, float> ? 1.2e-5 : std::is_same_v<T, F16> ? 5e-4 : 3.94e-3;
}
template <typename T>
constexpr double kLeast = std::is_same_v<T, F16> ? 3e-8 : 1e-35;

/// At `offset` elements from an aligned address, out of place and in place of either argument.
template <typename T>
void TestSizes(const Case& c) {
  for (int64_t n : {0, 1, 3, 7, 8, 9, 64, 1023, 1536, 4096, 4099, 9000}) {
    for (int64_t offset : {0, 1}) {
      auto gate = OnCuda(RandomArray<T>({n + offset}, n, 4.f)),
           up = OnCuda(RandomArray<T>({n + offset}, n + 1)), out = CudaOutput<T>({n + offset});
      const auto g = From(gate, offset, {n}), u = From(up, offset, {n}), o = From(out, offset, {n});
      c.Run(g, u, o);
      for (int64_t i = offset; i < n + offset; ++i) {
        const double want = c.exact(gate.At(i)) * up.At(i);
        MLF_EXPECT(std::abs(out.At(i) - want) <= Tolerance<T>() * std::abs(want) + kLeast<T>);
      }
      const auto same = [&](const OwnedArray<T>& a) {
        return std::memcmp(a.data.data() + offset, out.data.data() + offset, n * sizeof(T)) == 0;
      };
      auto copy = OnCuda(RandomArray<T>({n + offset}, n + 1));
      c.Run(g, From(copy, offset, {n}), From(copy, offset, {n}));
      MLF_EXPECT(n == 0 || same(copy));
      c.Run(g, u, g);
      MLF_EXPECT(n == 0 || same(gate));
    }
  }
}

void TestExtremes(const Case& c) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float values[] = {0.f,   -0.f,   20.f,  -20.f,  86.f,  -86.f, -88.5f, -200.f, 10.1f,
                          -9.9f, -10.1f, -13.f, 1e4f,   -1e4f, 1e19f, -1e19f, 1e30f,  -1e30f,
                          13.3f, -13.3f, 3e38f, -3e38f, kInf,  -kInf, 1e-30f, -1e-30f};
  constexpr int64_t kCount = std::size(values);
  auto gate = CudaOutput<float>({kCount}), up = CudaOutput<float>({kCount}),
       out = CudaOutput<float>({kCount});
  std::copy_n(values, kCount, gate.data.data());
  std::fill(up.data.begin(), up.data.end(), 1.f);
  c.Run(gate, up, out);
  for (int64_t i = 0; i < kCount; ++i) {
    const double want = c.exact(gate[i]);
    MLF_EXPECT(out[i] == want || std::abs(out[i] - want) <= 1e-5 * std::abs(want) + 1e-35);
  }
  gate[0] = -kInf, gate[1] = -200.f;
  up[0] = up[1] = 3e38f;
  gate[3] = std::nanf("");
  up[5] = std::nanf("");
  c.Run(gate, up, out);
  MLF_EXPECT(out[0] == 0.f && out[1] == 0.f);
  MLF_EXPECT(std::isnan(out[3]) && out[2] == 20.f && std::isnan(out[5]));
}

void TestGrids() {
  static_assert(BlocksOf(0, 8) == 0 && BlocksOf(1, 8) == 1 && BlocksOf(8, 8) == 1);
  static_assert(BlocksOf(9, 8) == 2 && BlocksOf(int64_t{1} << 62, 1) == kMaxGrid);
  static_assert(ElementBlocks(8 * 512, 8) == 1 && ElementBlocks(8 * 512 + 1, 8) == 2);
  static_assert(ElementBlocks(3, 8) == 1);  // whose tail is no vector
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestGrids();
  for (uint64_t seed : {1, 2}) {
    mlf::emulated::SetSeed(seed);
    for (const mlf::Case& c : mlf::kCases) {
      mlf::TestSizes<float>(c);
      mlf::TestSizes<mlf::F16>(c);
      mlf::TestSizes<mlf::BF16>(c);
      mlf::TestExtremes(c);
    }
  }
  return 0;
}
