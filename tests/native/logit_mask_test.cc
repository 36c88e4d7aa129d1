// Token bitmasks: float64 references at every dtype and size, statuses, infinities, threads.
#include "kernels/logit_mask.h"

#include <cmath>
#include <limits>

#include "base/thread_pool.h"
#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr float kInf = std::numeric_limits<float>::infinity(),
                kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 513, 4097};

struct Case {
  int64_t rows, n, words;
  OwnedArray<int32_t> bits;
  OwnedArray<float> temperature, ln_min_p, mass;
  OwnedArray<int32_t> status;

  Case(int64_t rows, int64_t n)
      : rows(rows),
        n(n),
        words((n + 31) / 32),
        bits({rows, words}),
        temperature({rows}),
        ln_min_p({rows}),
        mass({rows}),
        status({rows}) {
    for (int64_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<int32_t>(RandomBits(n, i));
    for (int64_t r = 0; r < rows; ++r) {
      temperature[r] = r % 4 == 3 ? 0.f : 0.5f + static_cast<float>(r);
      ln_min_p[r] = r % 2 == 0 ? -kInf : -3.f;
    }
  }

  bool Allowed(int64_t r, int64_t i) const {
    return static_cast<uint32_t>(bits[r * words + i / 32]) >> (i % 32) & 1;
  }

  template <typename T>
  void Run(OwnedArray<T>& x) {
    mask_logits_kernel(kCpu, mass, status, x, TensorView(bits), std::nullopt,
                       TensorView(temperature), TensorView(ln_min_p));
  }
};

template <typename T>
void ExpectRow(const Case& c, int64_t r, const OwnedArray<T>& x, const OwnedArray<T>& out) {
  const double rounding = std::is_same_v<T, float> ? 2e-7 : std::is_same_v<T, F16> ? 6e-4 : 4.5e-3;
  double max = -kInf, best = -kInf;
  int64_t first = -1;
  for (int64_t i = 0; i < c.n; ++i) {
    const double v = x.At(r * c.n + i);
    max = std::max(max, v);
    if (c.Allowed(r, i) && v > best) {
      best = v;
      first = i;
    }
  }
  MLF_EXPECT(c.status[r] == (first < 0 ? kMaskEmpty : kMaskOk));
  const bool greedy = c.temperature[r] < 1e-4f;
  const double t = greedy ? 1 : c.temperature[r];
  double all = 0, allowed = 0;
  for (int64_t i = 0; i < c.n; ++i) {
    const double v = x.At(r * c.n + i), weight = std::exp((v - max) / t);
    all += weight;
    if (c.Allowed(r, i)) allowed += weight;
    const double got = out.At(r * c.n + i), above = (v - best) / t - c.ln_min_p[r];
    if (!c.Allowed(r, i) || (greedy && i != first)) {
      MLF_EXPECT(got == -kInf);
    } else if (std::fabs(above) > 1e-4) {
      const double want = above < 0 ? -kInf : v / t;
      MLF_EXPECT(got == want || std::fabs(got - want) <= rounding * std::fabs(want));
    }
  }
  MLF_EXPECT(std::fabs(c.mass[r] - allowed / all) <= 2e-6);
}

template <typename T>
void TestRows() {
  for (const int64_t n : kSizes) {
    for (const int64_t rows : {0, 1, 7}) {
      Case c(rows, n);
      const auto x = RandomArray<T>({rows, n}, n, 3.f);
      auto out = RandomArray<T>({rows, n}, n, 3.f);
      c.Run(out);
      for (int64_t r = 0; r < rows; ++r) ExpectRow(c, r, x, out);
      auto masked = RandomArray<T>({rows, n}, n, 3.f);
      apply_token_bitmask_kernel(kCpu, masked, c.bits, std::nullopt);
      for (int64_t i = 0; i < rows * n; ++i) {
        MLF_EXPECT(masked.At(i) == (c.Allowed(i / n, i % n) ? x.At(i) : -kInf));
      }
    }
  }
}

void TestStatus() {
  for (const int64_t n : {1, 17, 40000}) {
    Case c(5, n);
    for (int64_t i = 0; i < c.bits.size(); ++i) c.bits[i] = i / c.words == 1 ? 0 : -1;
    OwnedArray<float> x({5, n});
    x[0] = kNan;
    for (int64_t i = 0; i < n; ++i) x[2 * n + i] = -kInf;
    x[3 * n + n - 1] = kInf;
    c.temperature[3] = 2;
    c.Run(x);
    const int32_t expected[] = {kMaskBadLogits, kMaskEmpty, kMaskBadLogits, kMaskOk, kMaskOk};
    for (int64_t r = 0; r < 5; ++r) {
      MLF_EXPECT(c.status[r] == expected[r]);
      if (expected[r] == kMaskOk) continue;
      MLF_EXPECT(c.mass[r] == 0);
      for (int64_t i = 0; i < n; ++i) MLF_EXPECT(x[r * n + i] == -kInf);
    }
    MLF_EXPECT(x[4 * n - 1] == kInf && c.mass[3] == 1);
  }
}

/// The same bits on one thread and on all, alone and in a batch.
void TestInvariance() {
  constexpr int64_t kRows = 3, kN = 70001;
  Case c(kRows, kN);
  auto spread = RandomArray<float>({kRows, kN}, 1), alone = RandomArray<float>({kRows, kN}, 1);
  c.Run(spread);
  const std::vector<float> mass = c.mass.data;
  {
    const ThreadLimit one(1);
    c.Run(alone);
  }
  MLF_EXPECT(SameBits(spread, alone) && mass == c.mass.data);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestRows<float>();
  mlf::TestRows<mlf::F16>();
  mlf::TestRows<mlf::BF16>();
  mlf::TestStatus();
  mlf::TestInvariance();
  return 0;
}
