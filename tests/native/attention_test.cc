// Attention over plain tensors: float64 references, invariance, the same bits as over pages.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/thread_pool.h"
#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};

struct Options {
  bool causal = true;
  int64_t window = 0;
  double soft_cap = 0;
};

template <typename T>
struct Sequence {
  int64_t queries, keys, heads, kv_heads, head_dim;
  OwnedArray<T> q, k, v;

  Sequence(int64_t queries, int64_t keys, int64_t heads, int64_t kv_heads, int64_t head_dim,
           uint64_t seed)
      : queries(queries),
        keys(keys),
        heads(heads),
        kv_heads(kv_heads),
        head_dim(head_dim),
        q(RandomArray<T>({queries, heads, head_dim}, seed)),
        k(RandomArray<T>({keys, kv_heads, head_dim}, seed + 1)),
        v(RandomArray<T>({keys, kv_heads, head_dim}, seed + 2)) {}

  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }

  OwnedArray<T> Run(const Options& o = {}) const {
    OwnedArray<T> out({queries, heads, head_dim});
    std::fill(out.data.begin(), out.data.end(),
              FromFloat<T>(std::numeric_limits<float>::quiet_NaN()));
    const ArrayView none;
    attention_kernel(kCpu, out, q, k, v, none, none, scale(), o.causal, o.window, o.soft_cap);
    return out;
  }

  bool Sees(int64_t i, int64_t j, const Options& o) const {
    const int64_t p = keys - queries + i;
    return (!o.causal || j <= p) && (o.window == 0 || std::abs(p - j) < o.window);
  }

  std::vector<double> Reference(int64_t i, int64_t h, const Options& o) const {
    const int64_t head = h / (heads / kv_heads);
    std::vector<double> score(keys), out(head_dim, 0.0);
    double max = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t d = 0; d < head_dim; ++d) {
        score[j] += scale() * q.At((i * heads + h) * head_dim + d) *
                    k.At((j * kv_heads + head) * head_dim + d);
      }
      if (o.soft_cap != 0) score[j] = o.soft_cap * std::tanh(score[j] / o.soft_cap);
      if (Sees(i, j, o)) max = std::max(max, score[j]);
    }
    for (int64_t j = 0; j < keys; ++j) {
      if (!Sees(i, j, o)) continue;
      const double weight = std::exp(score[j] - max);
      sum += weight;
      for (int64_t d = 0; d < head_dim; ++d) {
        out[d] += weight * v.At((j * kv_heads + head) * head_dim + d);
      }
    }
    for (double& x : out) x = sum == 0 ? 0 : x / sum;
    return out;
  }

  void ExpectReference(const Options& o = {}) const {
    const double tolerance = sizeof(T) == 4 ? 2e-6 : std::is_same_v<T, F16> ? 1e-3 : 8e-3;
    const OwnedArray<T> out = Run(o);
    for (int64_t i = 0; i < queries * heads; ++i) {
      const std::vector<double> want = Reference(i / heads, i % heads, o);
      for (int64_t d = 0; d < head_dim; ++d) {
        const double got = out.At(i * head_dim + d);  // NaN fails
        MLF_EXPECT(std::abs(got - want[d]) <= tolerance * std::max(1.0, std::abs(want[d])));
      }
    }
  }
};

template <typename T>
void TestReference() {
  uint64_t seed = 1;
  for (int64_t head_dim : {1, 15, 16, 17, 48, 64, 80}) {
    for (auto [heads, kv_heads] : {std::pair{1, 1}, {3, 1}, {4, 2}, {12, 2}, {5, 5}}) {
      for (auto [queries, keys] : {std::pair{1, 1}, {1, 64}, {3, 31}, {2, 65}, {35, 33}, {1, 0}}) {
        Sequence<T>(queries, keys, heads, kv_heads, head_dim, ++seed).ExpectReference();
      }
    }
  }
  for (bool causal : {true, false}) {
    for (int64_t window : {0, 1, 32, 33, 70}) {
      Sequence<T>(50, 90, 4, 2, 32, ++seed).ExpectReference({causal, window, 0});
      Sequence<T>(90, 50, 4, 2, 20, ++seed).ExpectReference({causal, window, 1.5});
    }
  }
  Sequence<T>(3, 2100, 4, 2, 32, ++seed).ExpectReference();
  Sequence<T>(3, 2100, 4, 2, 32, ++seed).ExpectReference({true, 1500, 0});
}

/// A row alone, in any company, with any number of threads.
template <typename T>
void TestInvariance(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  const Sequence<T> all(1200, 1200, heads, kv_heads, head_dim, 31);
  const int64_t row = heads * head_dim, key = kv_heads * head_dim;
  const OwnedArray<T> whole = all.Run();
  for (int threads : {1, 2}) {
    const ThreadLimit limit(threads);
    MLF_EXPECT(SameBits(all.Run(), whole));
    for (int64_t t : {0, 1, 31, 32, 33, 700, 1023, 1024, 1199}) {
      Sequence<T> one(1, t + 1, heads, kv_heads, head_dim, 0);
      std::copy_n(&all.q[t * row], row, one.q.data.data());
      std::copy_n(all.k.data.data(), (t + 1) * key, one.k.data.data());
      std::copy_n(all.v.data.data(), (t + 1) * key, one.v.data.data());
      const OwnedArray<T> out = one.Run();
      MLF_EXPECT(std::memcmp(out.data.data(), &whole[t * row], row * sizeof(T)) == 0);
    }
  }
  // Few heads and many keys: threads share the segments of one row.
  const Sequence<T> decode(1, 5000, heads, kv_heads, head_dim, 41);
  const OwnedArray<T> shared = decode.Run();
  const ThreadLimit limit(1);
  MLF_EXPECT(SameBits(decode.Run(), shared));
}

template <typename T>
void TestSameAsPages(int64_t head_dim) {
  constexpr int64_t kKeys = 200, kPages = 7;
  const Sequence<T> x(kKeys, kKeys, 6, 2, head_dim, 51);
  OwnedArray<T> k_pages({kPages, 2, head_dim, kPageSize}),
      v_pages({kPages, 2, kPageSize, head_dim}), out({kKeys, 6, head_dim});
  OwnedArray<int32_t> positions({kPages, kPageSize}), table({1, kPages}), row({kKeys}),
      position({kKeys});
  OwnedArray<int64_t> slots({kKeys});
  std::fill(positions.data.begin(), positions.data.end(), -1);
  for (int64_t i = 0; i < kPages; ++i) table[i] = static_cast<int32_t>(kPages - 1 - i);
  for (int64_t i = 0; i < kKeys; ++i) {
    slots[i] = table[i / kPageSize] * kPageSize + i % kPageSize;
    positions[slots[i]] = position[i] = static_cast<int32_t>(i);
  }
  kv_append_kernel(kCpu, k_pages, v_pages, x.k, x.v, slots);
  for (const Options& o : {Options{}, {true, 50, 0}, {true, 0, 3}}) {
    paged_attention_kernel(kCpu, out, x.q, k_pages, v_pages, positions, table, row, position,
                           ArrayView(), ArrayView(), x.scale(), o.window, o.soft_cap);
    MLF_EXPECT(SameBits(out, x.Run(o)));
  }
}

void TestPackedSequences() {
  const Sequence<float> a(5, 40, 4, 2, 24, 61), b(33, 20, 4, 2, 24, 62);
  Sequence<float> both(38, 60, 4, 2, 24, 0);
  const auto join = [](OwnedArray<float>& out, const OwnedArray<float>& x,
                       const OwnedArray<float>& y) {
    std::copy(x.data.begin(), x.data.end(), out.data.begin());
    std::copy(y.data.begin(), y.data.end(), out.data.begin() + x.size());
  };
  join(both.q, a.q, b.q);
  join(both.k, a.k, b.k);
  join(both.v, a.v, b.v);
  OwnedArray<int32_t> cu_q({4}), cu_k({4});
  cu_q.data = {0, 5, 5, 38};  // the second sequence is empty
  cu_k.data = {0, 40, 40, 60};
  const ArrayView q_bounds(cu_q.data.data(), kI32, {4}), k_bounds(cu_k.data.data(), kI32, {4});
  OwnedArray<float> out({38, 4, 24}), want({38, 4, 24});
  attention_kernel(kCpu, out, both.q, both.k, both.v, q_bounds, k_bounds, a.scale(), true, 0, 0);
  join(want, a.Run(), b.Run());
  MLF_EXPECT(SameBits(out, want));
}

template <typename T>
void TestAll() {
  TestReference<T>();
  TestInvariance<T>(4, 1, 64);
  TestInvariance<T>(6, 3, 24);
  TestSameAsPages<T>(64);
  TestSameAsPages<T>(20);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestAll<float>();
  mlf::TestAll<mlf::F16>();
  mlf::TestAll<mlf::BF16>();
  mlf::TestPackedSequences();
  return 0;
}
