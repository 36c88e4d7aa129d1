// Argmax, top-k and draws on CUDA, in the emulator, against the CPU kernels: dtypes, odd sizes,
// unaligned rows, ties, NaN, infinities, rows alone and in a batch.
#include <algorithm>
#include <limits>
#include <optional>

#include "check.h"
#include "cuda_array.h"
#include "cuda_emulator.h"
#include "cuda_scratch.h"
#include "kernels/sampling.h"
#include "kernels/sampling_launch.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr float kInf = std::numeric_limits<float>::infinity(),
                kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kSizes[] = {1,    2,    7,    8,    33,   255,   1000,
                              1024, 1025, 8191, 8192, 8193, 20001, 70003};

/// What a row holds, so that every way through the kernels is taken.
enum Content { kFlat, kPeaked, kTied, kEqual, kOdd, kFar, kRising, kNoNumber, kContents };

template <typename T>
OwnedArray<T> Rows(int64_t rows, int64_t n, uint64_t seed) {
  auto x = RandomArray<T>({rows, n}, seed + 1);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      T& at = x[r * n + i];
      auto v = static_cast<float>(at);
      const uint64_t bits = RandomBits(seed, r * n + i);
      switch (r % kContents) {
        case kFlat:
          v *= 0.3f;
          break;
        case kPeaked:
          v *= 5.f;
          break;
        case kTied:
          v = std::round(v * 2);
          break;
        case kEqual:
          v = bits % 2 == 0 ? 0.f : -0.f;
          break;
        case kOdd:
          v = bits % 7 == 0 ? kNan : bits % 7 == 1 ? -kInf : bits % 5003 == 2 ? kInf : v;
          break;
        case kFar:
          v = bits % 3 == 0 ? -1e9f : v;
          break;
        case kRising:
          v = static_cast<float>(i) * 1e-3f;
          break;
        case kNoNumber:
          v = i % 3 == 0 ? kNan : -kInf;
          break;
        default:
          break;
      }
      at = FromFloat<T>(v);
    }
  }
  return x;
}

template <typename T>
OwnedArray<T> OnCpu(const OwnedArray<T>& x) {
  OwnedArray<T> copy({x.size()});
  copy.data = x.data;
  copy.view = x.view.On(kCpu);
  return copy;
}

template <typename T>
void TestArgmax(int64_t rows, int64_t n) {
  const auto x = Rows<T>(rows, n, n), on_cuda = OnCuda(Rows<T>(rows, n, n));
  OwnedArray<int32_t> want({rows});
  auto ids = CudaOutput<int32_t>({rows});
  argmax_kernel(kCpu, want, x);
  argmax_kernel(kCuda, ids, on_cuda);
  MLF_EXPECT(ids.data == want.data);
}

template <typename T>
void TestTopK(int64_t rows, int64_t n) {
  const auto x = Rows<T>(rows, n, n), on_cuda = OnCuda(Rows<T>(rows, n, n));
  for (const int64_t k : {int64_t{1}, int64_t{40}, int64_t{1024}, int64_t{1500}, n / 2, n}) {
    if (k < 1 || k > n) continue;
    OwnedArray<T> want({rows, k});
    OwnedArray<int32_t> want_ids({rows, k});
    top_k_kernel(kCpu, want, want_ids, x, k);
    auto values = CudaOutput<T>({rows, k});
    auto ids = CudaOutput<int32_t>({rows, k});
    top_k_kernel(kCuda, values, ids, on_cuda, k);
    MLF_EXPECT(ids.data == want_ids.data && SameBits(values, want));
  }
}

struct Options {
  OwnedArray<float> uniform, temperature, top_p, min_p;
  OwnedArray<int32_t> top_k;

  /// `ranked`: by top_k and top_p too.
  Options(int64_t rows, uint64_t seed, bool ranked)
      : uniform({rows}), temperature({rows}), top_p({rows}), min_p({rows}), top_k({rows}) {
    constexpr float kTemperatures[] = {1, 0.7f, 4, 0, 30, 1e-30f};
    constexpr float kTopPs[] = {1, 0.9f, 1, 0.3f, 0.999f}, kMinPs[] = {0, 0, 0.02f, 0.6f, 1};
    constexpr int32_t kTopKs[] = {0, -1, 5, 0, 300, 3000, 1};
    for (int64_t r = 0; r < rows; ++r) {
      uniform[r] = static_cast<float>(RandomUniform(seed, r)) * 0.9999999f;
      temperature[r] = kTemperatures[RandomBits(seed + 1, r) % 6];
      top_p[r] = ranked ? kTopPs[RandomBits(seed + 2, r) % 5] : 1;
      min_p[r] = kMinPs[RandomBits(seed + 3, r) % 5];
      top_k[r] = ranked ? kTopKs[RandomBits(seed + 4, r) % 7] : 0;
    }
  }
};

struct Drawn {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
};

/// Rows `begin` to `end` of x.
template <typename T>
Drawn Sample(DLDevice device, OwnedArray<T>& x, Options& o, int64_t n, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  const auto part = [&](auto& a) {
    return ArrayView(a.data.data() + begin, a.view.dtype(), {rows}, device);
  };
  auto ids = CudaOutput<int32_t>({rows});
  auto logprobs = CudaOutput<float>({rows});
  const ArrayView logits(x.data.data() + begin * n, x.view.dtype(), {rows, n}, device),
      uniform = part(o.uniform), temperature = part(o.temperature), top_k = part(o.top_k),
      top_p = part(o.top_p), min_p = part(o.min_p);
  sample_kernel(device, ids.view.On(device), logprobs.view.On(device), logits, uniform,
                TensorView(temperature), TensorView(top_k), TensorView(top_p), TensorView(min_p));
  return {ids.data, logprobs.data};
}

/// The mass of the tokens before `id` in the order of a draw, and its own, as parts of what the
/// filters leave: where the ids of two draws differ, rounding must have decided between them.
template <typename T>
class Masses {
 public:
  Masses(const OwnedArray<T>& x, const Options& o, int64_t r, int64_t n) {
    std::vector<int64_t> order;
    for (int64_t i = 0; i < n; ++i) {
      if (x.At(r * n + i) > -kInf) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return x.At(r * n + a) > x.At(r * n + b); });
    if (order.empty()) return;
    const double max = x.At(r * n + order[0]), t = o.temperature[r];
    const auto weight = [&](int64_t id) {
      const double v = x.At(r * n + id);
      return v == max ? 1 : std::exp((v - max) / t);
    };
    const int32_t k = o.top_k[r];
    const bool cut = k > 0 && k < n;
    if (cut && k < static_cast<int64_t>(order.size())) order.resize(k);
    double all = 0, kept = 0;
    for (const int64_t id : order) all += weight(id);
    size_t end = 0;
    while (end < order.size() && (end == 0 || kept < o.top_p[r] * all))
      kept += weight(order[end++]);
    if (o.top_p[r] < 1) order.resize(end);
    while (order.size() > 1 && weight(order.back()) < o.min_p[r]) order.pop_back();
    edge_ = weight(order.back());
    if (!cut && o.top_p[r] == 1) std::sort(order.begin(), order.end());
    for (const int64_t id : order) {
      places_.push_back({id, all_, weight(id)});
      all_ += weight(id);
    }
  }

  bool MayDraw(int32_t id, float uniform) const {
    constexpr double kEdge = 4e-6;
    const double at = uniform * all_, slack = kEdge * all_ + edge_;
    for (const Place& p : places_) {
      if (p.id == id) return p.before - slack <= at && at <= p.before + p.weight + slack;
    }
    return false;
  }

 private:
  struct Place {
    int64_t id;
    double before, weight;
  };
  std::vector<Place> places_;
  double all_ = 0, edge_ = 0;
};

int64_t drawn = 0, differing = 0;

template <typename T>
void TestDraws(int64_t rows, int64_t n, uint64_t seed, bool ranked) {
  auto x = Rows<T>(rows, n, seed);
  Options o(rows, seed, ranked);
  const Drawn want = Sample(kCpu, x, o, n, 0, rows), got = Sample(kCuda, x, o, n, 0, rows);
  for (int64_t r = 0; r < rows; ++r) {
    ++drawn;
    if (want.ids[r] < 0) {
      MLF_EXPECT(got.ids[r] == -1 && got.logprobs[r] == -kInf);
      continue;
    }
    if (got.ids[r] != want.ids[r]) {
      ++differing;
      MLF_EXPECT(o.temperature[r] > 0);
      MLF_EXPECT(Masses<T>(x, o, r, n).MayDraw(got.ids[r], o.uniform[r]));
      continue;
    }
    MLF_EXPECT(std::fabs(got.logprobs[r] - want.logprobs[r]) <=
               2e-6 + 2e-7 * std::fabs(want.logprobs[r]));
  }
  // Alone, each row has the same bits, also where it is not aligned as in the batch.
  for (int64_t r = 0; r < rows; r += 3) {
    const Drawn alone = Sample(kCuda, x, o, n, r, r + 1);
    MLF_EXPECT(alone.ids[0] == got.ids[r]);
    MLF_EXPECT(std::memcmp(alone.logprobs.data(), &got.logprobs[r], sizeof(float)) == 0);
  }
}

void TestNoOptions() {
  constexpr int64_t kN = 50;
  OwnedArray<float> x({4, kN});
  for (int64_t i = 0; i < kN; ++i) {
    x[i] = -kInf;
    x[kN + i] = kNan;
    x[2 * kN + i] = i == 8 || i == 9 ? kInf : 1.f;
    x[3 * kN + i] = i == 30 ? -5.f : -kInf;
  }
  OwnedArray<float> uniform({4});
  std::fill(uniform.data.begin(), uniform.data.end(), 0.75f);
  const auto logits = OnCuda(std::move(x)), uniforms = OnCuda(std::move(uniform));
  auto ids = CudaOutput<int32_t>({4});
  auto logprobs = CudaOutput<float>({4});
  sample_kernel(kCuda, ids, logprobs, logits, uniforms, std::nullopt, std::nullopt, std::nullopt,
                std::nullopt);
  MLF_EXPECT((ids.data == std::vector<int32_t>{-1, -1, 9, 30}));
  MLF_EXPECT(logprobs[0] == -kInf && logprobs[1] == -kInf && logprobs[3] == 0);
  MLF_EXPECT(std::fabs(logprobs[2] + std::log(2.f)) < 1e-6);
}

/// Values that only the device sees.
void TestBadOptions() {
  const float uniforms[] = {-0.1f, 1.f, kNan, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f},
              temperatures[] = {1, 1, 1, -1, kInf, kNan, 1, 1, 1, 1},
              top_ps[] = {1, 1, 1, 1, 1, 1, 0, 1.5f, 1, 1},
              min_ps[] = {0, 0, 0, 0, 0, 0, 0, 0, -1, kNan};
  constexpr int64_t kRows = 10, kN = 100;
  Options o(kRows, 1, true);
  for (int64_t r = 0; r < kRows; ++r) {
    o.uniform[r] = uniforms[r];
    o.temperature[r] = temperatures[r];
    o.top_p[r] = top_ps[r];
    o.min_p[r] = min_ps[r];
  }
  auto x = RandomArray<float>({kRows, kN}, 3);
  const Drawn got = Sample(kCuda, x, o, kN, 0, kRows);
  for (int64_t r = 0; r < kRows; ++r) {
    MLF_EXPECT(got.ids[r] == -1 && std::isnan(got.logprobs[r]));
  }
}

/// A framework may offer no memory: argmax does without, what cannot says so.
void TestNoScratch() {
  constexpr int64_t kN = 70003;
  const auto x = OnCuda(RandomArray<float>({1, kN}, 5));
  auto with = CudaOutput<int32_t>({1}), without = CudaOutput<int32_t>({1});
  auto values = CudaOutput<float>({1, 5});
  auto ids = CudaOutput<int32_t>({1, 5});
  argmax_kernel(kCuda, with, x);
  const NoScratchAllocator none;
  argmax_kernel(kCuda, without, x);
  MLF_EXPECT(without[0] == with[0] && with[0] >= 0);
  MLF_EXPECT_THROWS(top_k_kernel(kCuda, values, ids, x, 5), "RuntimeError",
                    "top_k.cuda: x [1, 70003] float32, values [1, 5] float32, ids [1, 5] int32: "
                    "needs 9216 bytes of scratch memory");
}

void TestLaunch() {
  for (const int64_t n : {1, 2, 3, 4, 1000, 1 << 18, (1 << 18) + 1, INT32_MAX}) {
    const int bits = WeightBits(n);
    MLF_EXPECT(n <= int64_t{1} << (62 - bits));  // the sum of n weights of 2^bits fits
    MLF_EXPECT(bits == 62 || n > int64_t{1} << (61 - bits));
  }
  MLF_EXPECT(SurveyChunks(8192) == 1 && SurveyChunks(8193) == 2 && SurveyGroups(8193) == 512);
  MLF_EXPECT(MergePasses(1) == 0 && MergePasses(2048) == 0 && MergePasses(2049) == 1 &&
             MergePasses(4097) == 2 && MergePasses(262144) == 7);
  for (const int64_t rows : {0, 1, 3, 132, 500, 5000}) {
    for (const int64_t n : {1, 8192, 131072, 262144}) {
      const int64_t splits = ArgmaxSplits(rows, n, 132);
      MLF_EXPECT(splits >= 1 && splits <= std::max<int64_t>(1, n / 8192));
      MLF_EXPECT(splits == 1 || rows * splits < 2 * 4 * 132);
    }
  }
}

template <typename T>
void TestAll() {
  for (const int64_t n : kSizes) {
    for (const int64_t rows : {1, 3, 19}) TestArgmax<T>(rows, n);
    TestTopK<T>(n > 30000 ? 3 : kContents, n);
    TestDraws<T>(n > 30000 ? 8 : 24, n, n, true);
    TestDraws<T>(n > 30000 ? 8 : 24, n, n + 9, false);
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestLaunch();
  mlf::TestNoOptions();
  mlf::TestBadOptions();
  mlf::TestNoScratch();
  mlf::TestAll<float>();
  mlf::emulated::SetSeed(7);
  mlf::TestAll<mlf::F16>();
  mlf::TestAll<mlf::BF16>();
  MLF_EXPECT(mlf::differing * 50 <= mlf::drawn);  // 1 in 50 where rounding decides would be many
  return 0;
}
