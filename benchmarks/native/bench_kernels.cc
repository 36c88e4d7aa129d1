// Prints the speed of the CPU kernels; bench_kernels [threads]. Results are tested in tests/native.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>

#include "base/thread_pool.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "kernels/sampling.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};

/// Microseconds: of this thread's work where it works alone, so that a busy machine does not show.
double NowUs() {
  timespec now;
  clock_gettime(ThreadCount() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

/// Median microseconds of a call, over at least 30 ms.
double MedianUs(const std::function<void()>& fn) {
  fn();
  std::vector<double> us;
  for (double total = 0; total < 30e3 || us.size() < 5; total += us.back()) {
    const double start = NowUs();
    fn();
    us.push_back(NowUs() - start);
  }
  std::nth_element(us.begin(), us.begin() + us.size() / 2, us.end());
  return us[us.size() / 2];
}

void Row(const char* name, double us, double work, const char* unit) {
  std::printf("%-44s %10.2f us %8.1f %s\n", name, us, work / us * 1e-3, unit);
}

void BenchPool() {
  for (int64_t chunks : {1, 2, 4}) {
    char name[64];
    std::snprintf(name, sizeof name, "ParallelFor, %d empty chunks", static_cast<int>(chunks));
    Row(name, MedianUs([&] { ParallelFor(chunks, 1, [](int64_t, int64_t) {}); }), 0, "");
  }
}

template <typename T>
void BenchNorm(const char* dtype, int64_t tokens, int64_t hidden) {
  const auto x = RandomArray<T>({tokens, hidden}, 1), w = RandomArray<T>({hidden}, 2);
  OwnedArray<T> out({tokens, hidden});
  char name[64];
  std::snprintf(name, sizeof name, "rms_norm %s [%ld, %ld]", dtype, static_cast<long>(tokens),
                static_cast<long>(hidden));
  Row(name, MedianUs([&] { rms_norm_kernel(kCpu, out, x, w, 1e-6); }), 2.0 * x.size() * sizeof(T),
      "GB/s");
}

void BenchRope(int64_t tokens, bool interleaved) {
  constexpr int64_t kHeads = 9, kDim = 64;
  auto x = RandomArray<float>({tokens, kHeads, kDim}, 1);
  OwnedArray<float> angles({tokens, 2, kDim / 2});
  OwnedArray<int32_t> positions({tokens});
  for (int64_t t = 0; t < tokens; ++t) positions[t] = static_cast<int32_t>(t);
  const double us =
      MedianUs([&] { rope_angles_kernel(kCpu, angles, positions, ArrayView(), 1e4, 1.0); });
  Row("rope_angles", us, angles.size() * 1.0, "G/s");
  Row(interleaved ? "rope interleaved" : "rope NeoX",
      MedianUs([&] { rope_rotate_kernel(kCpu, x, angles, interleaved); }), 8.0 * x.size(), "GB/s");
}

struct Shape {
  const char* name;
  int64_t sequences, tokens, past, heads, kv_heads, dim;
};

template <typename T>
void BenchAttention(const char* dtype, const Shape& s) {
  const int64_t length = s.past + s.tokens, pages = (length + kPageSize - 1) / kPageSize,
                all_pages = pages * s.sequences, tokens = s.tokens * s.sequences;
  auto k = RandomArray<T>({all_pages, s.kv_heads, s.dim, kPageSize}, 1),
       v = RandomArray<T>({all_pages, s.kv_heads, kPageSize, s.dim}, 2);
  OwnedArray<int32_t> positions({all_pages, kPageSize}), table({s.sequences, pages}), row({tokens}),
      position({tokens});
  OwnedArray<int64_t> slots({tokens});
  for (int64_t i = 0; i < all_pages; ++i) table[i] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < positions.size(); ++i) {
    positions[i] = static_cast<int32_t>(i % (pages * kPageSize));
  }
  for (int64_t t = 0; t < tokens; ++t) {
    row[t] = static_cast<int32_t>(t / s.tokens);
    position[t] = static_cast<int32_t>(s.past + t % s.tokens);
    slots[t] = row[t] * pages * kPageSize + position[t];
  }
  const auto q = RandomArray<float>({tokens, s.heads, s.dim}, 3),
             key = RandomArray<float>({tokens, s.kv_heads, s.dim}, 4);
  OwnedArray<float> out({tokens, s.heads, s.dim});
  double visible = 0;
  for (int64_t t = 0; t < tokens; ++t) visible += position[t] + 1;
  char name[64];
  std::snprintf(name, sizeof name, "attention %s %s", dtype, s.name);
  Row(name, MedianUs([&] {
        paged_attention_kernel(kCpu, out, q, k, v, positions, table, row, position, ArrayView(),
                               ArrayView(), 0.125, 0, 0);
      }),
      4 * visible * s.heads * s.dim, "GFLOP/s");
  std::snprintf(name, sizeof name, "kv_append %s %s", dtype, s.name);
  Row(name, MedianUs([&] { kv_append_kernel(kCpu, k, v, key, key, slots); }),
      2.0 * key.size() * (4 + sizeof(T)), "GB/s");
}

void BenchElementwise() {
  const auto gate = RandomArray<float>({512, 1536}, 1), up = RandomArray<float>({512, 1536}, 2);
  OwnedArray<float> out({512, 1536});
  Row("silu_mul [512, 1536]", MedianUs([&] { silu_mul_kernel(kCpu, out, gate, up); }),
      12.0 * gate.size(), "GB/s");
  const auto logits = RandomArray<float>({1, 151936}, 3);
  OwnedArray<int32_t> ids({1});
  Row("argmax [1, 151936]", MedianUs([&] { argmax_kernel(kCpu, ids, logits); }),
      4.0 * logits.size(), "GB/s");
}

}  // namespace
}  // namespace mlf

int main(int argc, char** argv) {
  using namespace mlf;
  const ThreadLimit limit(argc > 1 ? std::atoi(argv[1]) : 0);
  BenchPool();
  BenchNorm<float>("f32", 1, 576);
  BenchNorm<float>("f32", 32, 576);
  BenchNorm<float>("f32", 512, 576);
  BenchNorm<F16>("f16", 512, 4096);
  BenchNorm<BF16>("bf16", 512, 4096);
  BenchRope(512, false);
  BenchRope(512, true);
  for (const Shape& s : {Shape{"decode 4096, 9/3 heads of 64", 1, 1, 4095, 9, 3, 64},
                         Shape{"decode 4096, 32/8 heads of 128", 1, 1, 4095, 32, 8, 128},
                         Shape{"decode 4096, 14/2 heads of 64", 1, 1, 4095, 14, 2, 64},
                         Shape{"decode 32 x 256, 9/3 heads of 64", 32, 1, 255, 9, 3, 64},
                         Shape{"decode 64, 8/4 heads of 8", 1, 1, 63, 8, 4, 8},
                         Shape{"prefill 512, 9/3 heads of 64", 1, 512, 0, 9, 3, 64},
                         Shape{"prefill 512, 32/8 heads of 128", 1, 512, 0, 32, 8, 128}}) {
    BenchAttention<float>("f32", s);
    BenchAttention<F16>("f16", s);
  }
  BenchElementwise();
  return 0;
}
