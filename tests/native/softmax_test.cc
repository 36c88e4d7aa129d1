// Softmax and its logarithm against float64; splits of a row over threads; infinities and NaN.
#include "kernels/softmax.h"

#include <limits>

#include "base/thread_pool.h"
#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr float kInf = std::numeric_limits<float>::infinity();

double Score(double x, double scale, double cap) {
  return cap == 0 ? scale * x : cap * std::tanh(scale * x / cap);
}

/// Largest error of a row over the largest magnitude of its output (at least the least normal one
/// of the dtype).
template <typename T>
double RowError(const OwnedArray<T>& out, const OwnedArray<T>& x, int64_t row, int64_t n,
                double scale, double cap, bool log) {
  double max = -HUGE_VAL, sum = 0, error = 0, largest = std::is_same_v<T, F16> ? 6.2e-5 : 1e-37;
  const auto y = [&](int64_t i) { return Score(x.At(row * n + i), scale, cap); };
  for (int64_t i = 0; i < n; ++i) max = std::max(max, y(i));
  for (int64_t i = 0; i < n; ++i) sum += std::exp(y(i) - max);
  for (int64_t i = 0; i < n; ++i) {
    const double want = log ? y(i) - max - std::log(sum) : std::exp(y(i) - max) / sum;
    error = std::max(error, std::abs(out.At(row * n + i) - want));
    largest = std::max(largest, std::abs(want));
  }
  return error / largest;
}

template <typename T>
void TestSizes(int64_t rows, int64_t n, double scale, double cap) {
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : std::is_same_v<T, F16> ? 5e-4 : 4e-3;
  for (bool log : {false, true}) {
    auto& kernel = log ? log_softmax_kernel : softmax_kernel;
    auto x = RandomArray<T>({rows, n}, n, 3.f);
    OwnedArray<T> out({rows, n}), again({rows, n});
    kernel(kCpu, out, x, scale, cap);
    for (int64_t row = 0; row < rows; ++row) {
      MLF_EXPECT(RowError(out, x, row, n, scale, cap, log) <= tolerance);
    }
    {
      const ThreadLimit one(1);
      kernel(kCpu, again, x, scale, cap);
    }
    MLF_EXPECT(SameBits(out, again));
    kernel(kCpu, x, x, scale, cap);  // in place
    MLF_EXPECT(SameBits(out, x));
  }
}

template <typename T>
void TestAll() {
  for (int64_t n : {1, 2, 15, 16, 17, 63, 64, 65, 1000, 4095, 4096, 4097, 16385, 128256}) {
    for (int64_t rows : {0, 1, 3}) {
      TestSizes<T>(rows, n, 1, 0);
      TestSizes<T>(rows, n, -0.125, 0);
      TestSizes<T>(rows, n, 0.5, 2.0);
    }
  }
  TestSizes<T>(50, 700, 1, 30);
}

/// The last elements of a row, a block and a tail, count.
void TestEveryElementCounts() {
  for (int64_t n : {17, 4096, 4100, 40001}) {
    for (int64_t i : {int64_t{0}, n / 2, n - 1}) {
      OwnedArray<float> x({1, n}), out({1, n});
      x[i] = 20;
      softmax_kernel(kCpu, out, x, 1, 0);
      MLF_EXPECT(std::abs(out[i] - 1 / (1 + (n - 1) * std::exp(-20.0))) < 1e-6);
    }
  }
}

void TestInfinities(int64_t n) {
  OwnedArray<float> x({1, n}), out({1, n});
  const auto all_nan = [&] {
    for (float v : out.data) {
      if (!std::isnan(v)) return false;
    }
    return true;
  };
  std::fill(x.data.begin(), x.data.end(), -kInf);
  for (auto* kernel : {&softmax_kernel, &log_softmax_kernel}) {
    (*kernel)(kCpu, out, x, 1, 0);
    MLF_EXPECT(all_nan());
  }
  softmax_kernel(kCpu, out, x, 1, 5);  // capped: all alike
  MLF_EXPECT(std::abs(out[n - 1] * n - 1) < 1e-6);
  x[n - 1] = -50;  // all of it goes to the only finite one
  softmax_kernel(kCpu, out, x, 1, 0);
  MLF_EXPECT(out[n - 1] == 1 && out[0] == (n == 1 ? 1 : 0));
  log_softmax_kernel(kCpu, out, x, 1, 0);
  MLF_EXPECT(out[n - 1] == 0 && out[0] == (n == 1 ? 0 : -kInf));
  for (float bad : {kInf, std::nanf("")}) {
    x[n - 1] = bad;
    for (auto* kernel : {&softmax_kernel, &log_softmax_kernel}) {
      (*kernel)(kCpu, out, x, 1, 0);
      MLF_EXPECT(all_nan());
    }
  }
  std::fill(x.data.begin(), x.data.end(), -3.4e38f);  // the end of the range is no infinity
  softmax_kernel(kCpu, out, x, 1, 0);
  MLF_EXPECT(std::abs(out[0] * n - 1) < 1e-6);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestAll<float>();
  mlf::TestAll<mlf::F16>();
  mlf::TestAll<mlf::BF16>();
  mlf::TestEveryElementCounts();
  for (int64_t n : {1, 16, 100, 5000, 20000}) mlf::TestInfinities(n);
  return 0;
}
