// Token bitmasks on CUDA, in the emulator, against the CPU kernels: dtypes, odd sizes, unaligned
// rows, statuses, infinities, both ways to launch, rows alone and in a batch.
#include <algorithm>
#include <limits>

#include "check.h"
#include "cuda_array.h"
#include "cuda_emulator.h"
#include "kernels/logit_mask.h"
#include "kernels/logit_mask_launch.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr float kInf = std::numeric_limits<float>::infinity(),
                kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kSizes[] = {1, 2, 7, 31, 32, 33, 64, 513, 4095, 4096, 4097, 8193, 30011};

struct Parameters {
  OwnedArray<int32_t> bits, mask_rows;
  OwnedArray<float> temperature, ln_min_p;

  /// Masks of all kinds: random ones, one that forbids all, none.
  Parameters(int64_t rows, int64_t n)
      : bits({4, (n + 31) / 32 + 1}), mask_rows({rows}), temperature({rows}), ln_min_p({rows}) {
    const int64_t words = bits.size() / 4;
    constexpr float kTemperatures[] = {1, 0.7f, 3, 0, 1e-5f, 1e-4f, 100};
    for (int64_t i = 0; i < bits.size(); ++i) {
      bits[i] = i / words == 1 ? 0 : static_cast<int32_t>(RandomBits(n, i));
    }
    for (int64_t r = 0; r < rows; ++r) {
      mask_rows[r] = static_cast<int32_t>(RandomBits(5, r) % 5) - 1;
      temperature[r] = kTemperatures[(r / 8 + 5 * r) % 7];
      ln_min_p[r] = r % 3 == 0 ? -3.f : r % 7 == 0 ? 0 : -kInf;
    }
  }
};

template <typename T>
OwnedArray<T> Rows(int64_t rows, int64_t n) {
  const float largest = std::is_same_v<T, F16> ? 65504.f : 3.3e38f;
  auto x = RandomArray<T>({rows, n}, n, 3.f);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      auto v = static_cast<float>(x[r * n + i]);
      const uint64_t bits = RandomBits(n, r * n + i) % 997;
      if (r % 8 == 1 && bits == 0) v = kNan;
      if (r % 8 == 2 && bits < 300) v = -kInf;
      if (r % 8 == 3 && bits < 3) v = kInf;
      if (r % 8 == 4) v = -kInf;
      if (r % 8 == 5) v = std::round(v);
      if (r % 8 == 6) v = std::clamp(v / 12, -0.98f, 0.98f) * largest;  // quotients beyond T
      x[r * n + i] = FromFloat<T>(v);
    }
  }
  return x;
}

struct Outcome {
  std::vector<float> mass;
  std::vector<int32_t> status;
};

/// Masks rows `begin` to `end` of x in place.
template <typename T>
Outcome Mask(DLDevice device, OwnedArray<T>& x, Parameters& p, int64_t n, int64_t begin,
             int64_t end) {
  const int64_t rows = end - begin;
  const auto part = [&](auto& a) {
    return ArrayView(a.data.data() + begin, a.view.dtype(), {rows}, device);
  };
  auto mass = CudaOutput<float>({rows});
  auto status = CudaOutput<int32_t>({rows});
  const ArrayView logits(x.data.data() + begin * n, x.view.dtype(), {rows, n}, device),
      bits = p.bits.view.On(device), mask_rows = part(p.mask_rows),
      temperature = part(p.temperature), ln_min_p = part(p.ln_min_p);
  mask_logits_kernel(device, mass.view.On(device), status.view.On(device), logits, TensorView(bits),
                     TensorView(mask_rows), TensorView(temperature), TensorView(ln_min_p));
  return {mass.data, status.data};
}

/// Equal, or the neighbours that two roundings of a quotient give; nearly at the bound of min-p one
/// may have fallen below it.
template <typename T>
void ExpectLogits(const OwnedArray<T>& got, const OwnedArray<T>& want, const Parameters& p,
                  int64_t n) {
  const double rounding = std::is_same_v<T, float> ? 1.3e-7 : 0;
  for (int64_t r = 0; r < want.size() / n; ++r) {
    double best = -kInf;
    for (int64_t i = 0; i < n; ++i) best = std::max(best, want.At(r * n + i));
    for (int64_t i = r * n; i < (r + 1) * n; ++i) {
      const double a = got.At(i), b = want.At(i);
      if (a == b) continue;
      const double kept = std::max(a, b), least = best + p.ln_min_p[r];
      if (std::min(a, b) == -kInf) {
        MLF_EXPECT(std::fabs(kept - least) <= 1e-6 * (std::fabs(best) + 1));
      } else {
        MLF_EXPECT(std::fabs(a - b) <= rounding * std::fabs(b));
      }
    }
  }
}

template <typename T>
void TestRows(int64_t rows, int64_t n) {
  auto want = Rows<T>(rows, n), got = Rows<T>(rows, n), alone = Rows<T>(rows, n);
  Parameters p(rows, n);
  const Outcome expected = Mask(kCpu, want, p, n, 0, rows),
                outcome = Mask(kCuda, got, p, n, 0, rows);
  MLF_EXPECT(outcome.status == expected.status);
  for (int64_t r = 0; r < rows; ++r) {
    MLF_EXPECT(std::fabs(outcome.mass[r] - expected.mass[r]) <= 2e-6);
  }
  ExpectLogits(got, want, p, n);
  for (int64_t r = 0; r < rows; ++r) {  // the same bits
    const Outcome one = Mask(kCuda, alone, p, n, r, r + 1);
    MLF_EXPECT(one.mass[0] == outcome.mass[r] && one.status[0] == outcome.status[r]);
  }
  MLF_EXPECT(SameBits(alone, got));

  auto masked = Rows<T>(rows, n), forbidden = OnCuda(Rows<T>(rows, n));
  const auto bits = p.bits.view.On(kCuda), mask_rows = p.mask_rows.view.On(kCuda);
  apply_token_bitmask_kernel(kCpu, masked, p.bits, TensorView(p.mask_rows));
  apply_token_bitmask_kernel(kCuda, forbidden, bits, TensorView(mask_rows));
  MLF_EXPECT(SameBits(masked, forbidden));
}

/// Rows without any parameter, and an empty vocabulary.
void TestNoParameters() {
  for (const int64_t n : {0, 1, 5000}) {
    auto want = RandomArray<float>({3, n}, 1), got = OnCuda(RandomArray<float>({3, n}, 1));
    OwnedArray<float> want_mass({3});
    OwnedArray<int32_t> want_status({3});
    auto mass = CudaOutput<float>({3});
    auto status = CudaOutput<int32_t>({3});
    mask_logits_kernel(kCpu, want_mass, want_status, want, std::nullopt, std::nullopt, std::nullopt,
                       std::nullopt);
    mask_logits_kernel(kCuda, mass, status, got, std::nullopt, std::nullopt, std::nullopt,
                       std::nullopt);
    MLF_EXPECT(SameBits(got, want) && mass.data == want_mass.data &&
               status.data == want_status.data);
  }
}

/// Values that only the device sees.
void TestBadParameters() {
  constexpr int64_t kRows = 8, kN = 40;
  auto x = RandomArray<float>({kRows, kN}, 1);
  Parameters p(kRows, kN);
  for (int64_t r = 0; r < kRows; ++r) {
    p.mask_rows[r] = r == 0 ? 4 : r == 1 ? -2 : -1;
    p.temperature[r] = r == 2 ? -1 : r == 3 ? kNan : r == 4 ? kInf : 1;
    p.ln_min_p[r] = r == 5 ? 0.1f : r == 6 ? kNan : -kInf;
  }
  auto forbidden = OnCuda(RandomArray<float>({kRows, kN}, 1));
  const Outcome outcome = Mask(kCuda, x, p, kN, 0, kRows);
  for (int64_t r = 0; r < kRows; ++r) {
    const bool bad = r < 7;
    MLF_EXPECT(outcome.status[r] == (bad ? kMaskBadParameter : kMaskOk));
    MLF_EXPECT(outcome.mass[r] == (bad ? 0 : 1));
    for (int64_t i = 0; i < kN; ++i) MLF_EXPECT((x[r * kN + i] == -kInf) == bad);
  }
  const auto bits = p.bits.view.On(kCuda), mask_rows = p.mask_rows.view.On(kCuda);
  apply_token_bitmask_kernel(kCuda, forbidden, bits, TensorView(mask_rows));
  for (int64_t i = 0; i < kRows * kN; ++i) {
    MLF_EXPECT((forbidden[i] == -kInf) == (i / kN < 2));  // not one token of an unknown mask
  }
}

/// Every item is looked at and written once, and a row's looks come before its writes.
void TestSteps() {
  for (const int64_t rows : {1, 2, 7, 50}) {
    for (const int64_t chunks : {1, 3, 32}) {
      for (const int64_t blocks : {1, 5, 400}) {
        const int64_t items = rows * chunks, lag = MaskLag(items, chunks, blocks);
        std::vector<int> looks(items), writes(items);
        for (int64_t ticket = 0; ticket < 2 * items; ++ticket) {
          const MaskStep step = MaskStepOf(ticket, items, lag);
          MLF_EXPECT(step.item >= 0 && step.item < items);
          ++(step.writes ? writes : looks)[step.item];
          const int64_t first = step.item / chunks * chunks;
          for (int64_t i = first; step.writes && i < first + chunks; ++i) MLF_EXPECT(looks[i] == 1);
        }
        for (int64_t i = 0; i < items; ++i) MLF_EXPECT(looks[i] == 1 && writes[i] == 1);
      }
    }
  }
}

template <typename T>
void TestAll() {
  for (const int64_t n : kSizes) {
    for (const int64_t rows : {1, 16}) TestRows<T>(rows, n);
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestSteps();
  mlf::TestNoParameters();
  mlf::TestBadParameters();
  mlf::TestAll<float>();
  mlf::emulated::SetSeed(3);
  mlf::TestAll<mlf::F16>();
  mlf::TestAll<mlf::BF16>();
  mlf::TestRows<float>(105, 30011);  // beyond what is masked in two launches
  mlf::TestRows<mlf::BF16>(70, 90001);
  return 0;
}
