// Normalisation on CUDA, in the emulator, through the ops: float64 references at every dtype and
// size, aliasing, a row alone, views that permit no vectors.
#include <limits>

#include "check.h"
#include "cuda_array.h"
#include "cuda_emulator.h"
#include "kernels/norm.h"

namespace mlf {
namespace {

// Below, at and above what a warp (512 or 1024 elements) and a block (8192 or 4096) hold, whole
// vectors and odd.
constexpr int64_t kSizes[] = {1,    2,    7,    8,    63,   64,   100,  512,  513,  576,
                              1023, 1024, 1032, 2049, 4096, 4097, 8192, 8200, 9001, 17000};

template <typename T>
double Tolerance() {  // one rounding of the output, and a little for the sum
  return std::is_same_v<T, float> ? 1e-6 : std::is_same_v<T, F16> ? 6e-4 : 4.5e-3;
}

template <typename... Arguments>
void Call(const char* op, const Arguments&... arguments) {
  ffi::Function::GetGlobalRequired(std::string("my_llm_ffi.") + op)(arguments...);
}

template <typename T>
OwnedArray<T> Random(std::initializer_list<int64_t> shape, uint64_t seed, double mean = 0) {
  auto a = RandomArray<T>(shape, seed);
  for (T& v : a.data) v = FromFloat<T>(static_cast<float>(v) + static_cast<float>(mean));
  return OnCuda(std::move(a));
}

/// (x - mean) * weight / sqrt(mean square of that + eps) + bias in float64; both may be absent.
template <typename T>
void ExpectNorm(const OwnedArray<T>& out, const OwnedArray<T>& x, const OwnedArray<T>& weight,
                double eps, bool centred = false, const OwnedArray<T>* bias = nullptr) {
  const int64_t n = weight.size();
  const auto count = static_cast<double>(n);
  for (int64_t r = 0; r < x.size() / n; ++r) {
    double mean = 0, squares = 0;
    for (int64_t d = 0; d < n && centred; ++d) mean += x.At(r * n + d) / count;
    for (int64_t d = 0; d < n; ++d) squares += std::pow(x.At(r * n + d) - mean, 2);
    const double scale = 1 / std::sqrt(squares / count + eps);
    for (int64_t d = 0; d < n; ++d) {
      const double shift = bias == nullptr ? 0 : bias->At(d),
                   want = (x.At(r * n + d) - mean) * scale * weight.At(d) + shift;
      // The rounding of the mean, and of two terms that nearly cancel, counts as much as they do.
      const double lost = 4e-7 * (std::abs(mean * scale * weight.At(d)) + std::abs(shift));
      MLF_EXPECT(std::abs(out.At(r * n + d) - want) <=
                 Tolerance<T>() * (std::abs(want) + 1e-2) + lost);
    }
  }
}

template <typename T>
void TestRmsNorm(int64_t n, int64_t rows) {
  auto x = Random<T>({rows, n}, n + rows);
  const auto weight = Random<T>({n}, n);
  auto out = CudaOutput<T>({rows, n});
  Call("rms_norm", TensorView(x), TensorView(weight), TensorView(out), 1e-6);
  ExpectNorm(out, x, weight, 1e-6);
  Call("rms_norm", TensorView(x), TensorView(weight), TensorView(x), 1e-6);  // in place
  MLF_EXPECT(SameBits(out, x));
}

template <typename T>
void TestAddRmsNorm(int64_t n, int64_t rows) {
  auto x = Random<T>({rows, n}, n + rows);
  const auto start = Random<T>({rows, n}, n + 1), weight = Random<T>({n}, n + 2);
  auto residual = CudaOutput<T>({rows, n}), out = CudaOutput<T>({rows, n});
  residual.data.assign(start.data.begin(), start.data.end());
  const auto call = [&](const OwnedArray<T>& to) {
    Call("add_rms_norm", TensorView(x), TensorView(residual), TensorView(weight), TensorView(to),
         1e-5);
  };
  call(out);
  for (int64_t i = 0; i < x.size(); ++i) {
    const T want = FromFloat<T>(static_cast<float>(start[i]) + static_cast<float>(x[i]));
    MLF_EXPECT(std::memcmp(&residual[i], &want, sizeof(T)) == 0);
  }
  ExpectNorm(out, residual, weight, 1e-5);
  std::copy(start.data.begin(), start.data.end(), residual.data.begin());
  call(x);  // in place
  MLF_EXPECT(SameBits(out, x));
}

template <typename T>
void TestLayerNorm(int64_t n, int64_t rows, double mean, bool with_bias) {
  auto x = Random<T>({rows, n}, n + rows, mean);
  const auto weight = Random<T>({n}, n + 1), bias = Random<T>({n}, n + 2);
  auto out = CudaOutput<T>({rows, n});
  ffi::Optional<TensorView> shift;
  if (with_bias) shift = TensorView(bias);
  Call("layer_norm", TensorView(x), TensorView(weight), shift, TensorView(out), 1e-5);
  ExpectNorm(out, x, weight, 1e-5, true, with_bias ? &bias : nullptr);
  Call("layer_norm", TensorView(x), TensorView(weight), shift, TensorView(x), 1e-5);  // in place
  MLF_EXPECT(SameBits(out, x));
}

template <typename T>
void TestSizes() {
  for (int64_t n : kSizes) {
    for (int64_t rows : {0, 1, 3, 17}) {
      if (rows * n > 40000) continue;
      TestRmsNorm<T>(n, rows);
      TestAddRmsNorm<T>(n, rows);
      TestLayerNorm<T>(n, rows, 0, true);
      TestLayerNorm<T>(n, rows, 30, false);  // a mean far above the spread
    }
  }
}

/// A row's bits depend on nothing beside the row.
template <typename T>
void TestRowAlone(int64_t n) {
  constexpr int64_t kRows = 19;
  const auto x = Random<T>({kRows, n}, 3), weight = Random<T>({n}, 4);
  auto whole = CudaOutput<T>({kRows, n}), row = CudaOutput<T>({1, n});
  Call("rms_norm", TensorView(x), TensorView(weight), TensorView(whole), 1e-6);
  for (int64_t r = 0; r < kRows; ++r) {
    auto alone = Random<T>({1, n}, 0);
    std::copy_n(&x[r * n], n, alone.data.data());
    Call("rms_norm", TensorView(alone), TensorView(weight), TensorView(row), 1e-6);
    MLF_EXPECT(std::memcmp(row.data.data(), &whole[r * n], n * sizeof(T)) == 0);
  }
}

/// Views that begin between two vectors.
template <typename T>
void TestUnaligned() {
  constexpr int64_t kN = 1024;
  auto storage = Random<T>({2 * kN + 1}, 1), out = CudaOutput<T>({2, kN});
  const auto weight = Random<T>({kN}, 2);
  const ArrayView x(storage.data.data() + 1, DtypeOf<T>(), {2, kN}, kCuda);
  Call("rms_norm", TensorView(x), TensorView(weight), TensorView(out), 1e-6);
  auto same = CudaOutput<T>({2, kN});
  std::copy_n(&storage[1], 2 * kN, same.data.data());
  ExpectNorm(out, same, weight, 1e-6);
}

void TestExtremes() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const auto weight = Random<float>({40}, 1);
  auto x = OnCuda(OwnedArray<float>({2, 40})), out = CudaOutput<float>({2, 40});
  Call("rms_norm", TensorView(x), TensorView(weight), TensorView(out), 1e-45);  // the least eps
  for (float o : out.data) MLF_EXPECT(o == 0);
  x[3] = kNan;
  Call("rms_norm", TensorView(x), TensorView(weight), TensorView(out), 1e-6);
  MLF_EXPECT(std::isnan(out[0]) && out[40] == 0);  // in its row alone
}

void TestRefusals() {
  const auto x = Random<float>({4, 8}, 1), weight = Random<float>({8}, 2);
  auto out = CudaOutput<float>({4, 8});
  const auto host = RandomArray<float>({8}, 2);
  MLF_EXPECT_THROWS(Call("rms_norm", TensorView(x), TensorView(host), TensorView(out), 1e-6),
                    "ValueError", "rms_norm: weight is on device 1:0, x is on 2:0");
  const auto slot = ffi::Function::GetGlobalRequired("my_llm_ffi.layer_norm.cuda");
  MLF_EXPECT_THROWS(
      slot(TensorView(out), TensorView(x), TensorView(weight), TensorView(host), 1e-6),
      "ValueError", "layer_norm.cuda: bias is not a CUDA tensor");
}

template <typename T>
void TestAll() {
  TestSizes<T>();
  for (int64_t n : {100, 1024, 9000}) TestRowAlone<T>(n);
  TestUnaligned<T>();
}

}  // namespace
}  // namespace mlf

int main() {
  for (uint64_t seed : {1, 2}) {
    mlf::emulated::SetSeed(seed);
    mlf::TestAll<float>();
    mlf::TestAll<mlf::F16>();
    mlf::TestAll<mlf::BF16>();
  }
  mlf::TestExtremes();
  mlf::TestRefusals();
  return 0;
}
