// Argmax, top-k and draws: float64 references, ties, NaN, infinities, threads.
#include "kernels/sampling.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/thread_pool.h"
#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity(),
                kNan = std::numeric_limits<float>::quiet_NaN();

int32_t Argmax(const std::vector<float>& row) {
  OwnedArray<float> x({1, static_cast<int64_t>(row.size())});
  x.data.assign(row.begin(), row.end());
  x.view = ArrayView(x.data.data(), kF32, {1, x.size()});
  OwnedArray<int32_t> id({1});
  id[0] = -1;
  argmax_kernel({kDLCPU, 0}, id, x);
  return id[0];
}

void TestRows(int64_t rows, int64_t n) {
  auto x = RandomArray<float>({rows, n}, n);
  for (int64_t i = 0; i < x.size(); i += 3) x[i] = std::round(x[i] * 4);  // ties
  for (int64_t i = 0; i < x.size(); i += 5) x[i] = kNan;
  OwnedArray<int32_t> ids({rows});
  argmax_kernel({kDLCPU, 0}, ids, x);
  for (int64_t r = 0; r < rows; ++r) {
    int64_t want = -1;
    for (int64_t i = 0; i < n; ++i) {
      if (!std::isnan(x[r * n + i]) && (want < 0 || x[r * n + i] > x[r * n + want])) want = i;
    }
    MLF_EXPECT(ids[r] == std::max<int64_t>(0, want));
  }
}

void TestEveryPlace(int64_t n) {
  for (int64_t at = 0; at < n; ++at) {
    std::vector<float> row(n, -1.f);
    row[at] = 2.f;
    MLF_EXPECT(Argmax(row) == at);
    row.assign(n, kNan);
    row[at] = -kInf;  // worse than anything, but a number
    MLF_EXPECT(Argmax(row) == at);
    row.assign(n, 3.f);
    row[at] = kNan;
    MLF_EXPECT(Argmax(row) == (at == 0 && n > 1 ? 1 : 0));
  }
}

/// Ids of a row, best first, of equals the lowest; NaN last.
template <typename T>
std::vector<int64_t> Order(const OwnedArray<T>& x, int64_t row, int64_t n) {
  std::vector<int64_t> ids(n);
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int64_t a, int64_t b) {
    const double left = x.At(row * n + a), right = x.At(row * n + b);
    return left > right || (std::isnan(right) && !std::isnan(left));
  });
  return ids;
}

template <typename T>
OwnedArray<T> RandomRows(int64_t rows, int64_t n, float scale) {
  auto x = RandomArray<T>({rows, n}, n, scale);
  for (int64_t i = 0; i < n; i += 2) x[i] = FromFloat<T>(std::round(x.At(i)));  // ties in row 0
  return x;
}

template <typename T>
void TestTopK() {
  for (const int64_t n : {1, 2, 17, 255, 1000, 2049, 20000}) {
    auto x = RandomRows<T>(3, n, 3.f);
    if (n > 4) x[2 * n + 1] = FromFloat<T>(kNan);
    if (n > 4) x[2 * n + 2] = FromFloat<T>(-kInf);
    for (const int64_t k : {int64_t{1}, std::min<int64_t>(n, 40), (n + 1) / 2, n}) {
      OwnedArray<T> values({3, k});
      OwnedArray<int32_t> ids({3, k});
      top_k_kernel({kDLCPU, 0}, values, ids, x, k);
      for (int64_t r = 0; r < 3; ++r) {
        const std::vector<int64_t> order = Order(x, r, n);
        for (int64_t i = 0; i < k; ++i) {
          MLF_EXPECT(ids[r * k + i] == order[i]);
          MLF_EXPECT(std::memcmp(&values[r * k + i], &x[r * n + order[i]], sizeof(T)) == 0);
        }
      }
    }
  }
}

struct Draws {
  OwnedArray<float> uniform, temperature, top_p, min_p, logprobs;
  OwnedArray<int32_t> top_k, ids;

  explicit Draws(int64_t rows)
      : uniform({rows}),
        temperature({rows}),
        top_p({rows}),
        min_p({rows}),
        logprobs({rows}),
        top_k({rows}),
        ids({rows}) {
    constexpr float kTemperatures[] = {1, 0.7f, 4, 30}, kTopPs[] = {1, 0.9f, 0.3f, 0.99f};
    constexpr float kMinPs[] = {0, 0, 0.02f, 0.6f};
    constexpr int32_t kTopKs[] = {0, -1, 5, 300, 3000};
    for (int64_t r = 0; r < rows; ++r) {
      uniform[r] = static_cast<float>(RandomUniform(11, r)) * 0.9999999f;
      temperature[r] = kTemperatures[r % 4];
      top_p[r] = kTopPs[r / 4 % 4];
      min_p[r] = kMinPs[r / 16 % 4];
      top_k[r] = kTopKs[r % 5];
    }
  }

  template <typename T>
  void Run(const OwnedArray<T>& x) {
    sample_kernel({kDLCPU, 0}, ids, logprobs, x, uniform, TensorView(temperature),
                  TensorView(top_k), TensorView(top_p), TensorView(min_p));
  }
};

/// The token drawn is where the sum of the best ones' weights passes the uniform part of what the
/// filters leave, but for the rounding of float32 weights.
template <typename T>
void ExpectDraw(const Draws& d, int64_t r, const OwnedArray<T>& x, int64_t n) {
  constexpr double kEdge = 4e-6;
  const std::vector<int64_t> order = Order(x, r, n);
  const double max = x.At(r * n + order[0]);
  std::vector<double> sums = {0};
  double raw = 0;
  for (const int64_t id : order) {
    sums.push_back(sums.back() + std::exp((x.At(r * n + id) - max) / d.temperature[r]));
    raw += std::exp(x.At(r * n + id) - max);
  }
  size_t end = d.top_k[r] > 0 ? std::min<int64_t>(n, d.top_k[r]) : n;
  if (d.top_p[r] < 1) {
    const double wanted = d.top_p[r] * sums[end];
    while (end > 1 && sums[end - 1] >= wanted) --end;
  }
  while (end > 1 && sums[end] - sums[end - 1] < d.min_p[r]) --end;
  // Filters that end one token earlier or later move the mass by that token.
  const double all = sums[end], at = d.uniform[r] * all,
               slack = kEdge * all + (all - sums[end - 1]);
  std::vector<int64_t> kept(order.begin(), order.begin() + static_cast<int64_t>(end));
  const bool ranked = (d.top_k[r] > 0 && d.top_k[r] < n) || d.top_p[r] < 1;
  if (!ranked) std::sort(kept.begin(), kept.end());
  double before = 0, weight = -1;
  for (const int64_t id : kept) {
    weight = std::exp((x.At(r * n + id) - max) / d.temperature[r]);
    if (id == d.ids[r]) break;
    before += weight;
    weight = -1;
  }
  MLF_EXPECT(weight >= 0 && before - slack <= at && at <= before + weight + slack);
  MLF_EXPECT(std::fabs(d.logprobs[r] - (x.At(r * n + d.ids[r]) - max - std::log(raw))) <= 4e-6);
}

template <typename T>
void TestDraws() {
  constexpr int64_t kRows = 64;
  for (const int64_t n : {1, 3, 100, 1000, 5000, 20001}) {
    for (const float scale : {0.3f, 5.f}) {
      const auto x = RandomRows<T>(kRows, n, scale);
      Draws draws(kRows), alone(kRows);
      draws.Run(x);
      for (int64_t r = 0; r < kRows; ++r) ExpectDraw(draws, r, x, n);
      const ThreadLimit one(1);
      alone.Run(x);
      MLF_EXPECT(SameBits(draws.ids, alone.ids) && SameBits(draws.logprobs, alone.logprobs));
    }
  }
}

void TestOddRows() {
  constexpr int64_t kN = 50;
  OwnedArray<float> x({4, kN});
  for (int64_t i = 0; i < kN; ++i) {
    x[i] = -kInf;
    x[kN + i] = kNan;
    x[2 * kN + i] = i == 8 || i == 9 ? kInf : 1.f;
    x[3 * kN + i] = i == 30 ? -5.f : -kInf;
  }
  OwnedArray<float> uniform({4}), logprobs({4});
  OwnedArray<int32_t> ids({4});
  std::fill(uniform.data.begin(), uniform.data.end(), 0.75f);
  sample_kernel({kDLCPU, 0}, ids, logprobs, x, uniform, std::nullopt, std::nullopt, std::nullopt,
                std::nullopt);
  MLF_EXPECT((ids.data == std::vector<int32_t>{-1, -1, 9, 30}));
  MLF_EXPECT(logprobs[0] == -kInf && logprobs[1] == -kInf && logprobs[3] == 0);
  MLF_EXPECT(std::fabs(logprobs[2] + std::log(2.f)) < 1e-6);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestTopK<float>();
  mlf::TestTopK<mlf::F16>();
  mlf::TestTopK<mlf::BF16>();
  mlf::TestDraws<float>();
  mlf::TestDraws<mlf::BF16>();
  mlf::TestOddRows();
  for (int64_t n : {1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 600}) mlf::TestEveryPlace(n);
  for (int64_t n : {1, 100, 4097, 49152}) {
    for (int64_t rows : {0, 1, 3, 20}) mlf::TestRows(rows, n);
  }
  MLF_EXPECT(mlf::Argmax(std::vector<float>(100, -mlf::kInf)) == 0);
  MLF_EXPECT(mlf::Argmax({-0.f, 0.f, -0.f}) == 0);
  MLF_EXPECT(mlf::Argmax({1.f, mlf::kInf, mlf::kInf}) == 1);
  return 0;
}
