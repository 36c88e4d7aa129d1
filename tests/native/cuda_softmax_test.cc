// Softmax and its logarithm on CUDA, in the emulator, through the ops: float64 references.
#include <tvm/ffi/extra/c_env_api.h>

#include <limits>

#include "check.h"
#include "cuda_array.h"
#include "cuda_emulator.h"
#include "cuda_scratch.h"
#include "kernels/softmax.h"
#include "kernels/softmax_launch.h"

namespace mlf {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Options {
  double scale = 1;
  ffi::Optional<double> soft_cap = std::nullopt;
};

void Run(bool logarithm, const TensorView& x, const TensorView& out, const Options& options) {
  static const ffi::Function ops[] = {ffi::Function::GetGlobalRequired("my_llm_ffi.softmax"),
                                      ffi::Function::GetGlobalRequired("my_llm_ffi.log_softmax")};
  ops[logarithm](x, out, options.scale, options.soft_cap);
}

std::vector<double> Exact(bool logarithm, const double* x, int64_t n, const Options& options) {
  std::vector<double> y(n);
  double max = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double v = options.scale * x[i];
    y[i] = options.soft_cap.has_value() ? *options.soft_cap * std::tanh(v / *options.soft_cap) : v;
    max = std::max(max, y[i]);
  }
  for (double v : y) sum += std::exp(v - max);
  for (double& v : y) v = logarithm ? v - max - std::log(sum) : std::exp(v - max) / sum;
  return y;
}

/// One rounding of the output; of float those of scores and exponents too.
template <typename T>
double Tolerance() {
  return std::is_same_v<T, float> ? 8e-6 : std::is_same_v<T, F16> ? 5e-4 : 3.95e-3;
}

template <typename T>
void TestRows(int64_t rows, int64_t n, const Options& options, int64_t offset = 0) {
  auto x = RandomArray<T>({rows * n + offset}, n + rows, 5.f),
       out = CudaOutput<T>({rows * n + offset});
  const auto from = From(x, offset, {rows, n}), to = From(out, offset, {rows, n});
  for (bool logarithm : {false, true}) {
    Run(logarithm, from, to, options);
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<double> row(n);
      for (int64_t i = 0; i < n; ++i) row[i] = x.At(offset + r * n + i);
      const std::vector<double> want = Exact(logarithm, row.data(), n, options);
      for (int64_t i = 0; i < n; ++i) {
        const double least = std::is_same_v<T, F16> ? 6e-8 : logarithm ? 4e-6 : 1e-37;
        MLF_EXPECT(std::abs(out.At(offset + r * n + i) - want[i]) <=
                   Tolerance<T>() * std::abs(want[i]) + least);
      }
    }
    auto copy = RandomArray<T>({rows * n + offset}, n + rows, 5.f);
    Run(logarithm, From(copy, offset, {rows, n}), From(copy, offset, {rows, n}), options);
    MLF_EXPECT(rows * n == 0 ||
               std::memcmp(&copy[offset], &out[offset], rows * n * sizeof(T)) == 0);
  }
}

template <typename T>
void TestSizes() {
  for (int64_t n : {1, 2, 7, 8, 63, 64, 100, 511, 512, 1000, 1024, 1025, 2049, 5000, 9000}) {
    TestRows<T>(3, n, {});
    TestRows<T>(2, n, {.scale = -0.3}, 1);
    TestRows<T>(2, n, {.scale = 0.5, .soft_cap = 3.0});
  }
  TestRows<T>(0, 16, {});
  TestRows<T>(16, 0, {});
  TestRows<T>(2, 40000, {});
  TestRows<T>(1, 70001, {});
  TestRows<T>(3, 9, {.scale = 0});
}

/// Rows of more than shared memory holds, and of more segments than parts.
void TestLong() {
  TestRows<BF16>(1, 262144, {});
  TestRows<float>(1, 100000, {});
  TestRows<float>(1, kSoftmaxMaxParts * kSoftmaxSegmentBytes / 4 + 77, {});
}

struct ScratchOwner {
  std::vector<char> data;
  int64_t shape[3], strides[3];
};
int g_allocations = 0;

/// What a framework offers.
int Allocate(DLTensor* prototype, DLManagedTensorVersioned** out, void*,
             void (*)(void*, const char*, const char*)) {
  ++g_allocations;
  auto* owner = new ScratchOwner;
  int64_t n = 1;
  for (int i = 0; i < prototype->ndim; ++i) n *= owner->shape[i] = prototype->shape[i];
  for (int64_t i = prototype->ndim - 1, stride = 1; i >= 0; stride *= owner->shape[i--]) {
    owner->strides[i] = stride;
  }
  owner->data.assign(n * DtypeBytes(prototype->dtype), '\xFF');
  auto* tensor = new DLManagedTensorVersioned{};
  tensor->version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  tensor->manager_ctx = owner;
  tensor->deleter = [](DLManagedTensorVersioned* self) {
    delete static_cast<ScratchOwner*>(self->manager_ctx);
    delete self;
  };
  tensor->dl_tensor = *prototype;
  tensor->dl_tensor.data = owner->data.data();
  tensor->dl_tensor.shape = owner->shape;
  tensor->dl_tensor.strides = owner->strides;
  *out = tensor;
  return 0;
}

/// A row gives the same bits alone (split, where there is scratch memory), alone without, in a
/// batch, and from another alignment.
template <typename T>
void TestBits(int64_t n) {
  constexpr int64_t kRows = 5;
  for (bool logarithm : {false, true}) {
    auto x = RandomArray<T>({kRows, n}, n, 3.f), batch = CudaOutput<T>({kRows, n});
    Run(logarithm, From(x, 0, {kRows, n}), From(batch, 0, {kRows, n}), {});
    auto alone = CudaOutput<T>({n}), split = CudaOutput<T>({n});
    const auto row = From(x, 2 * n, {1, n});
    auto shifted = CudaOutput<T>({n + 1});
    std::copy_n(&x[2 * n], n, &shifted[1]);
    {
      const NoScratchAllocator none;
      Run(logarithm, row, From(alone, 0, {1, n}), {});
      Run(logarithm, From(shifted, 1, {1, n}), From(shifted, 1, {1, n}), {});
    }
    const int before = g_allocations;
    DLPackManagedTensorAllocator old = nullptr;
    TVMFFIEnvSetDLPackManagedTensorAllocator(Allocate, 0, &old);
    Run(logarithm, row, From(split, 0, {1, n}), {});
    Run(logarithm, row, row, {});
    TVMFFIEnvSetDLPackManagedTensorAllocator(old, 0, nullptr);
    MLF_EXPECT(g_allocations ==
               before + (SoftmaxSplits(1, SoftmaxSegments(n, sizeof(T)), 4) ? 2 : 0));
    const auto same = [&](const T* a) { return std::memcmp(a, &batch[2 * n], n * sizeof(T)) == 0; };
    MLF_EXPECT(same(&alone[0]) && same(&split[0]) && same(&shifted[1]) && same(&x[2 * n]));
  }
}

void TestSpecial() {
  for (int64_t n : {5, 3000}) {
    for (bool logarithm : {false, true}) {
      auto x = CudaOutput<float>({4, n}), out = CudaOutput<float>({4, n});
      std::fill(x.data.begin(), x.data.end(), 1.f);
      std::fill_n(x.data.begin(), n, -kInf);
      x[n + 1] = kInf;
      x[2 * n + 1] = -kInf;
      x[3 * n + n - 1] = std::nanf("");
      Run(logarithm, x, out, {});
      for (int64_t i = 0; i < n; ++i) {
        MLF_EXPECT(std::isnan(out[i]) && std::isnan(out[n + i]) && std::isnan(out[3 * n + i]));
        const double even = logarithm ? -std::log(n - 1.0) : 1 / (n - 1.0);
        const double want = i == 1 ? (logarithm ? -kInf : 0) : even;
        MLF_EXPECT(out[2 * n + i] == want || std::abs(out[2 * n + i] - want) < 1e-6);
      }
      x[2 * n + 1] = 3e38f, x[2 * n + 2] = -3e38f;
      Run(logarithm, x, out, {});
      MLF_EXPECT(out[2 * n + 1] == (logarithm ? 0.f : 1.f));
      MLF_EXPECT(logarithm ? out[2 * n] < -2e38f : out[2 * n] == 0.f);
    }
  }
}

void TestLaunches() {
  static_assert(SoftmaxSegments(1, 2) == 1 && SoftmaxSegments(1024, 2) == 1);
  static_assert(SoftmaxSegments(1025, 2) == 2 && SoftmaxSegments(1024, 4) == 2);
  static_assert(SoftmaxThreadsOf(1, 512) == 32 && SoftmaxThreadsOf(16, 512) == 512);
  static_assert(SoftmaxThreadsOf(17, 512) == 9 * 32 && SoftmaxThreadsOf(125, 512) == 512);
  static_assert(SoftmaxThreads(132, 32, 132, 90) == 512 && SoftmaxThreads(133, 32, 132, 90) == 256);
  static_assert(SoftmaxThreads(8192, 60, 132, 90) == 256 &&
                SoftmaxThreads(8192, 96, 132, 90) == 512);
  static_assert(SoftmaxThreads(8192, 60, 108, 80) == 480);  // less memory
  static_assert(!SoftmaxSplits(1, 32, 132) && SoftmaxSplits(66, 33, 132));
  static_assert(!SoftmaxSplits(67, 33, 132));
  for (int64_t segments = 2; segments <= kSoftmaxMaxParts; ++segments) {
    for (int compute_capability : {80, 86, 90, 100, 120}) {
      for (int64_t rows : {1, 8192}) {
        const int threads = SoftmaxThreads(rows, segments, 132, compute_capability);
        const SoftmaxShared shared = SoftmaxSharedOf(segments, threads, compute_capability);
        MLF_EXPECT(threads / 32 <= segments && shared.stage_at % 16 == 0);
        MLF_EXPECT(shared.staged >= 0 && shared.staged <= segments - threads / 32);
        MLF_EXPECT(shared.stage_at >= segments * kSoftmaxPartBytes);
        MLF_EXPECT(shared.Bytes() <= SharedBytesOfBlock(compute_capability));
      }
    }
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestLaunches();
  for (uint64_t seed : {1, 2}) {
    mlf::emulated::SetSeed(seed);
    mlf::TestSizes<float>();
    mlf::TestSizes<mlf::F16>();
    mlf::TestSizes<mlf::BF16>();
    mlf::TestSpecial();
    mlf::TestBits<float>(16900);
    mlf::TestBits<float>(4096);
    mlf::TestBits<mlf::BF16>(34000);
    mlf::TestBits<mlf::BF16>(33793);
    mlf::TestBits<mlf::F16>(700);
    mlf::TestLong();
  }
  return 0;
}
