// Attention over plain tensors on CUDA, in the emulator: float64 references, and the same bits for
// a row alone, packed, in any chunk and for any split.
#include <array>

#include "check.h"
#include "cuda_array.h"
#include "cuda_scratch.h"
#include "kernels/attention.h"
#include "kernels/attention_launch.h"

namespace mlf {
namespace {

const ffi::Function& Slot() {
  static const ffi::Function slot = ffi::Function::GetGlobalRequired("my_llm_ffi.attention.cuda");
  return slot;
}

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
        q(OnCuda(RandomArray<T>({queries, heads, head_dim}, seed))),
        k(OnCuda(RandomArray<T>({keys, kv_heads, head_dim}, seed + 1))),
        v(OnCuda(RandomArray<T>({keys, kv_heads, head_dim}, seed + 2))) {}

  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }

  OwnedArray<T> Run(const Options& o = {}) const {
    auto out = CudaOutput<T>({queries, heads, head_dim});
    const ArrayView none;
    Slot()(TensorView(out), TensorView(q), TensorView(k), TensorView(v), TensorView(none),
           TensorView(none), scale(), o.causal, o.window, o.soft_cap);
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
    // One rounding of the output and, where products are of 16 bits, one of each weight.
    const double tolerance = sizeof(T) == 4 ? 4e-6 : std::is_same_v<T, F16> ? 1.5e-3 : 1e-2;
    const OwnedArray<T> out = Run(o);
    for (int64_t i = 0; i < queries * heads; ++i) {
      const std::vector<double> want = Reference(i / heads, i % heads, o);
      for (int64_t d = 0; d < head_dim; ++d) {
        const double got = out.At(i * head_dim + d);  // NaN fails
        MLF_EXPECT(std::abs(got - want[d]) <= tolerance * std::max(1.0, std::abs(want[d])));
      }
    }
  }

  /// Query t alone, with the keys up to its own.
  Sequence Alone(int64_t t) const {
    Sequence one(1, keys - queries + t + 1, heads, kv_heads, head_dim, 0);
    std::copy_n(&q[t * heads * head_dim], one.q.size(), one.q.data.data());
    std::copy_n(k.data.data(), one.k.size(), one.k.data.data());
    std::copy_n(v.data.data(), one.v.size(), one.v.data.data());
    return one;
  }
};

template <typename T>
void TestReference() {
  uint64_t seed = 1;
  for (int64_t head_dim : {1, 15, 16, 64, 80, 136, 256, 264}) {
    for (auto [heads, kv_heads] : {std::pair{3, 1}, {4, 2}, {20, 1}}) {
      for (auto [queries, keys] : {std::pair{1, 1}, {1, 64}, {3, 31}, {35, 33}, {1, 0}}) {
        Sequence<T>(queries, keys, heads, kv_heads, head_dim, ++seed).ExpectReference();
      }
    }
  }
  for (bool causal : {true, false}) {
    for (int64_t window : {0, 1, 33, 70}) {
      Sequence<T>(50, 90, 4, 2, 32, ++seed).ExpectReference({causal, window, 0});
      Sequence<T>(90, 50, 2, 2, 20, ++seed).ExpectReference({causal, window, 1.5});
    }
  }
  Sequence<T>(3, 700, 4, 2, 32, ++seed).ExpectReference();
  Sequence<T>(3, 700, 4, 2, 32, ++seed).ExpectReference({true, 300, 0});
}

/// Prompts whose blocks have 128 rows, 32 to a warp: sizes around theirs, and views that begin and
/// end within a warp. The emulator has four multiprocessors, which four blocks occupy.
template <typename T>
void TestLongPrompts() {
  uint64_t seed = 500;
  for (int64_t head_dim : {24, 64, 96, 128}) {
    for (int64_t queries : {31, 32, 33}) {
      Sequence<T>(queries, queries + 7, 16, 4, head_dim, ++seed).ExpectReference();
    }
  }
  for (int64_t window : {1, 5, 33}) {
    Sequence<T>(70, 75, 6, 2, 128, ++seed).ExpectReference({true, window, 0});
    Sequence<T>(131, 100, 4, 4, 120, ++seed).ExpectReference({window != 5, window, 2.5});
  }
  Sequence<T>(129, 520, 4, 2, 128, ++seed).ExpectReference();  // more than a segment
}

/// Values that are no numbers reach the rows that see them, and change no bit of the others.
template <typename T>
void TestNoNumbers(int64_t head_dim) {
  Sequence<T> x(70, 70, 8, 2, head_dim, 81);
  const OwnedArray<T> clean = x.Run();
  const int64_t row = 8 * head_dim, key = 37;
  for (int64_t i = 0; i < 2 * head_dim; ++i) {
    x.v[key * 2 * head_dim + i] = FromFloat<T>(i % 2 == 0 ? NAN : INFINITY);
  }
  const OwnedArray<T> out = x.Run();
  MLF_EXPECT(std::memcmp(out.data.data(), clean.data.data(), key * row * sizeof(T)) == 0);
  for (int64_t i = key * row; i < out.size(); ++i) {
    MLF_EXPECT(i % 2 == 0 ? std::isnan(out.At(i)) : std::isinf(out.At(i)));
  }
}

/// A row alone and in a prompt; its segments in one block and in many.
template <typename T>
void TestInvariance(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  const Sequence<T> all(600, 610, heads, kv_heads, head_dim, 31);
  const int64_t row = heads * head_dim;
  const OwnedArray<T> whole = all.Run();
  for (int64_t t : {0, 1, 21, 22, 23, 400, 501, 502, 599}) {
    const Sequence<T> one = all.Alone(t);
    const OwnedArray<T> out = one.Run();
    MLF_EXPECT(std::memcmp(out.data.data(), &whole[t * row], row * sizeof(T)) == 0);
    const ScratchAllocator allocator;
    MLF_EXPECT(SameBits(one.Run(), out));
    MLF_EXPECT(allocator.allocations() == (one.keys > kPageSize * 8 ? 1 : 0));
  }
}

/// Scores rise and fall every `each` keys, and values differ by more than weights err, so that it
/// shows which maximum a sum is taken to belong to; where they fall far, a lower one overflows.
template <typename T>
void TestLevels(int64_t head_dim, std::array<float, 5> levels, int64_t each) {
  constexpr float kValues[] = {2, -2, 3, 1, -1};
  Sequence<T> x(2, 5 * each, 4, 2, head_dim, 51);
  for (int64_t i = 0; i < x.q.size(); i += head_dim) {
    x.q[i] = FromFloat<T>(static_cast<float>(1 / x.scale()));
  }
  for (int64_t i = 0; i < x.k.size(); ++i) {
    const int64_t level = i / (2 * head_dim) / each;
    if (i % head_dim == 0) x.k[i] = FromFloat<T>(levels[level]);
    x.v[i] = FromFloat<T>(static_cast<float>(x.v.At(i)) / 8 + kValues[level]);
  }
  for (double soft_cap : {0.0, 20.0}) {
    const Options o{true, 0, soft_cap};
    x.ExpectReference(o);
    const OwnedArray<T> out = x.Run(o);
    const ScratchAllocator allocator;
    MLF_EXPECT(SameBits(x.Run(o), out));
    MLF_EXPECT(allocator.allocations() == (each >= kFirstSegmentKeys ? 1 : 0));
  }
}

/// The tokens of `x`, then those of `y`.
template <typename T>
void Join(OwnedArray<T>& out, const OwnedArray<T>& x, const OwnedArray<T>& y) {
  std::copy(x.data.begin(), x.data.end(), out.data.begin());
  std::copy(y.data.begin(), y.data.end(), out.data.begin() + x.size());
}

/// Two sequences that meet within a warp of long prompts.
template <typename T>
void TestPackedPrompts(int64_t head_dim) {
  const Sequence<T> a(45, 50, 8, 2, head_dim, 63), b(59, 61, 8, 2, head_dim, 64);
  Sequence<T> both(104, 111, 8, 2, head_dim, 0);
  Join(both.q, a.q, b.q);
  Join(both.k, a.k, b.k);
  Join(both.v, a.v, b.v);
  auto cu_q = OnCuda(OwnedArray<int32_t>({3})), cu_k = OnCuda(OwnedArray<int32_t>({3}));
  cu_q.data = {0, 45, 104};
  cu_k.data = {0, 50, 111};
  auto out = CudaOutput<T>({104, 8, head_dim});
  Slot()(TensorView(out), TensorView(both.q), TensorView(both.k), TensorView(both.v),
         TensorView(cu_q), TensorView(cu_k), a.scale(), true, int64_t{0}, 0.0);
  OwnedArray<T> want({104, 8, head_dim});
  Join(want, a.Run(), b.Run());
  MLF_EXPECT(SameBits(out, want));
}

template <typename T>
void TestPackedSequences() {
  const Sequence<T> a(5, 40, 4, 2, 24, 61), b(33, 20, 4, 2, 24, 62);
  Sequence<T> both(38, 60, 4, 2, 24, 0);
  Join(both.q, a.q, b.q);
  Join(both.k, a.k, b.k);
  Join(both.v, a.v, b.v);
  auto cu_q = OnCuda(OwnedArray<int32_t>({4})), cu_k = OnCuda(OwnedArray<int32_t>({4}));
  const auto run = [&] {
    auto out = CudaOutput<T>({38, 4, 24});
    Slot()(TensorView(out), TensorView(both.q), TensorView(both.k), TensorView(both.v),
           TensorView(cu_q), TensorView(cu_k), a.scale(), true, int64_t{0}, 0.0);
    return out;
  };
  cu_q.data = {0, 5, 5, 38};  // the second sequence is empty
  cu_k.data = {0, 40, 40, 60};
  OwnedArray<T> want({38, 4, 24});
  Join(want, a.Run(), b.Run());
  MLF_EXPECT(SameBits(run(), want));
  // Bounds that the op cannot check there must not lead out of the arrays.
  cu_q.data = {-7, 90, 3, 1 << 30};
  cu_k.data = {50, -3, 1 << 30, 7};
  run();
  auto out = CudaOutput<T>({38, 4, 24});
  auto short_cu = OnCuda(OwnedArray<int32_t>({1}));
  MLF_EXPECT_THROWS(
      Slot()(TensorView(out), TensorView(both.q), TensorView(both.k), TensorView(both.v),
             TensorView(short_cu), TensorView(short_cu), 1.0, true, int64_t{0}, 0.0),
      "ValueError", "cu_q has shape [1]");
}

/// A query that shared memory cannot hold.
template <typename T>
void TestTooLong() {
  const Sequence<T> x(1, 2, 2, 1, 9000, 71);
  MLF_EXPECT_THROWS(x.Run(), "NotImplementedError", "attention.cuda: q [1, 2, 9000] ");
  MLF_EXPECT_THROWS(x.Run(), "NotImplementedError", ": head_dim is 9000, expected at most ");
}

/// The output may be the query; memory need not be aligned.
template <typename T>
void TestViews() {
  Sequence<T> x(40, 300, 4, 2, 64, 71);
  const OwnedArray<T> want = x.Run();
  const auto shifted = [](const OwnedArray<T>& a) {
    std::vector<T> copy(a.size() + 1);
    std::copy(a.data.begin(), a.data.end(), copy.begin() + 1);
    return copy;
  };
  std::vector<T> q = shifted(x.q), k = shifted(x.k), v = shifted(x.v);
  const ArrayView q_view(q.data() + 1, DtypeOf<T>(), {40, 4, 64}, kCuda),
      k_view(k.data() + 1, DtypeOf<T>(), {300, 2, 64}, kCuda),
      v_view(v.data() + 1, DtypeOf<T>(), {300, 2, 64}, kCuda), none;
  Slot()(TensorView(q_view), TensorView(q_view), TensorView(k_view), TensorView(v_view),
         TensorView(none), TensorView(none), x.scale(), true, int64_t{0}, 0.0);
  MLF_EXPECT(std::memcmp(q.data() + 1, want.data.data(), want.size() * sizeof(T)) == 0);
}

template <typename T>
void TestAll() {
  TestReference<T>();
  TestLongPrompts<T>();
  TestNoNumbers<T>(64);
  TestNoNumbers<T>(128);
  TestInvariance<T>(4, 1, 64);
  TestInvariance<T>(6, 3, 24);
  TestInvariance<T>(2, 2, 160);
  TestInvariance<T>(3, 1, 128);
  for (int64_t head_dim : {16, 128, 160}) {
    TestLevels<T>(head_dim, {0, 3, 5, 4, 6}, kFirstSegmentKeys);
    TestLevels<T>(head_dim, {-45, 45, 6, 50, -50}, kFirstSegmentKeys);
    TestLevels<T>(head_dim, {-45, 45, 6, 50, -50}, kPageSize);
  }
  TestPackedSequences<T>();
  TestPackedPrompts<T>(64);
  TestPackedPrompts<T>(128);
  TestViews<T>();
  TestTooLong<T>();
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestAll<float>();
  mlf::TestAll<mlf::F16>();
  mlf::TestAll<mlf::BF16>();
  return 0;
}
