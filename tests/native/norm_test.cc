// Normalisation: float64 references at every dtype and size, aliasing, refusals of the op.
#include "kernels/norm.h"

#include <limits>

#include "base/thread_pool.h"
#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 31, 63, 64, 65, 576, 1023, 4096};

template <typename T>
double Tolerance() {  // one rounding of the output, and a little for the sum
  return std::is_same_v<T, float> ? 4e-7 : std::is_same_v<T, F16> ? 6e-4 : 4.5e-3;
}

template <typename T>
void ExpectNorm(const OwnedArray<T>& out, const OwnedArray<T>& x, const OwnedArray<T>& weight,
                double eps) {
  const int64_t n = weight.size();
  for (int64_t t = 0; t < x.size() / n; ++t) {
    double squares = 0;
    for (int64_t d = 0; d < n; ++d) squares += x.At(t * n + d) * x.At(t * n + d);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (int64_t d = 0; d < n; ++d) {
      const double want = x.At(t * n + d) * scale * weight.At(d);
      MLF_EXPECT(std::abs(out.At(t * n + d) - want) <= Tolerance<T>() * (std::abs(want) + 1e-2));
    }
  }
}

template <typename T>
void RmsNorm(TensorView out, TensorView x, TensorView weight, double eps) {
  rms_norm_kernel({kDLCPU, 0}, out, x, weight, eps);
}

void TestRmsNorm() {
  for (int64_t n : kSizes) {
    for (int64_t tokens : {0, 1, 3, 40}) {
      for (double eps : {1e-6, 1e-2}) {
        auto x = RandomArray<T>({tokens, n}, n + tokens);
        const auto weight = RandomArray<T>({n}, n);
        OwnedArray<T> out({tokens, n});
        RmsNorm(out, x, weight, eps);
        ExpectNorm(out, x, weight, eps);
        RmsNorm(x, x, weight, eps);  // in place
        MLF_EXPECT(SameBits(out, x));
      }
    }
  }
}

template <typename T>
void TestAddRmsNorm() {
  for (int64_t n : kSizes) {
    const auto x = RandomArray<T>({5, n}, n), start = RandomArray<T>({5, n}, n + 1),
               weight = RandomArray<T>({n}, n + 2);
    OwnedArray<T> residual({5, n}), out({5, n});
    residual.data = start.data;
    residual.view = ArrayView(residual.data.data(), DtypeOf<T>(), {5, n});
    add_rms_norm_kernel(kCpu, out, residual, x, weight, 1e-5);
    for (int64_t i = 0; i < x.size(); ++i) {
      const T want = FromFloat<T>(static_cast<float>(start[i]) + static_cast<float>(x[i]));
      MLF_EXPECT(std::memcmp(&residual[i], &want, sizeof(T)) == 0);
    }
    ExpectNorm(out, residual, weight, 1e-5);
  }
}

template <typename T>
void TestInvariance() {  // a row alone, and with 1 or 2 threads
  constexpr int64_t kTokens = 64, kHidden = 1000;
  const auto x = RandomArray<T>({kTokens, kHidden}, 3), weight = RandomArray<T>({kHidden}, 4);
  OwnedArray<T> whole({kTokens, kHidden}), again({kTokens, kHidden}), row({1, kHidden});
  RmsNorm(whole, x, weight, 1e-6);
  {
    const ThreadLimit one(1);
    RmsNorm(again, x, weight, 1e-6);
  }
  MLF_EXPECT(SameBits(whole, again));
  for (int64_t t = 0; t < kTokens; ++t) {
    OwnedArray<T> alone({1, kHidden});
    std::copy_n(&x[t * kHidden], kHidden, alone.data.data());
    RmsNorm(row, alone, weight, 1e-6);
    MLF_EXPECT(std::memcmp(row.data.data(), &whole[t * kHidden], kHidden * sizeof(T)) == 0);
  }
}

void TestExtremes() {
  const auto weight = RandomArray<float>({40}, 1);
  OwnedArray<float> zero({2, 40}), out({2, 40});
  RmsNorm(out, zero, weight, 1e-6);
  for (float o : out.data) MLF_EXPECT(o == 0);
  RmsNorm(out, zero, weight, 1e-45);  // the least eps
  for (float o : out.data) MLF_EXPECT(o == 0);
  zero[3] = std::numeric_limits<float>::quiet_NaN();
  RmsNorm(out, zero, weight, 1e-6);
  MLF_EXPECT(std::isnan(out[0]) && out[40] == 0);  // in its row alone
}

void TestRanks() {
  const auto x = RandomArray<float>({2, 3, 4, 5}, 1), weight = RandomArray<float>({5}, 2);
  OwnedArray<float> out({2, 3, 4, 5});
  RmsNorm(out, x, weight, 1e-6);
  ExpectNorm(out, x, weight, 1e-6);
  const auto row = RandomArray<float>({5}, 3);
  OwnedArray<float> out_row({5});
  RmsNorm(out_row, row, weight, 1e-6);
  ExpectNorm(out_row, row, weight, 1e-6);
  OwnedArray<float> no_hidden({3, 0}), no_weight({0});
  RmsNorm(no_hidden, no_hidden, no_weight, 1e-6);
}

void TestRefusals() {
  const auto x = RandomArray<float>({4, 8}, 1), w = RandomArray<float>({8}, 2);
  const auto short_w = RandomArray<float>({7}, 2);
  const auto half_w = RandomArray<F16>({8}, 2);
  OwnedArray<float> out({4, 8}), wide({4, 9}), flat({32}), storage({64});
  OwnedArray<int32_t> ints({4, 8});
  OwnedArray<float> scalar({});
  const auto refuses = [&](TensorView o, TensorView i, TensorView weight, double eps,
                           const char* kind, const char* part) {
    MLF_EXPECT_THROWS(RmsNorm(o, i, weight, eps), kind, part);
  };
  refuses(out, x, short_w, 1e-6, "ValueError",
          "rms_norm: weight has shape [7], expected [hidden=8 (from x)]");
  refuses(wide, x, w, 1e-6, "ValueError",
          "rms_norm: out has shape [4, 9], expected [*batch=(4) (from x), hidden=8 (from x)]");
  refuses(flat, x, w, 1e-6, "ValueError", "rms_norm: out has shape [32]");
  refuses(scalar, scalar, w, 1e-6, "ValueError", "x has shape [], expected [*batch, hidden]");
  refuses(out, ints, w, 1e-6, "TypeError",
          "rms_norm: x is int32, expected one of float32, float16, bfloat16");
  refuses(out, x, half_w, 1e-6, "TypeError", "weight is float16, expected float32");
  for (double eps : {0.0, -1.0, 1e-60, 1e60, std::nan(""), HUGE_VAL}) {
    refuses(out, x, w, eps, "ValueError", "eps must be a positive float32, got ");
  }
  const auto at = [&](int64_t offset) {
    return ArrayView(storage.data.data() + offset, kF32, {4, 8});
  };
  refuses(at(1), at(0), w, 1e-6, "ValueError", "rms_norm: out overlaps x in memory");
  refuses(at(31), at(0), w, 1e-6, "ValueError", "rms_norm: out overlaps x in memory");
  RmsNorm(at(32), at(0), w, 1e-6);
  refuses(at(0), x, ArrayView(storage.data.data(), kF32, {8}), 1e-6, "ValueError",
          "out overlaps weight in memory, expected memory of its own");
  refuses(out, x, ArrayView(const_cast<float*>(w.data.data()), kF32, {8}, {kDLCUDA, 0}), 1e-6,
          "ValueError", "weight is on device 2:0, x is on 1:0");
  int64_t shape[] = {4, 8}, strides[] = {1, 4};
  DLTensor t{};
  t.data = storage.data.data(), t.device = kCpu, t.ndim = 2, t.dtype = kF32;
  t.shape = shape, t.strides = strides;
  refuses(out, TensorView(&t), w, 1e-6, "ValueError", "rms_norm: x must be contiguous");
}

template <typename T>
void TestAll() {
  TestRmsNorm<T>();
  TestAddRmsNorm<T>();
  TestInvariance<T>();
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestAll<float>();
  mlf::TestAll<mlf::F16>();
  mlf::TestAll<mlf::BF16>();
  mlf::TestExtremes();
  mlf::TestRanks();
  mlf::TestRefusals();
  return 0;
}
