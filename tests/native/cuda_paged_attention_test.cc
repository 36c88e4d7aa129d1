// Attention over a paged cache on CUDA, in the emulator: float64 references, hidden entries, and
// the same bits for a token in any company and for any split.
#include <array>
#include <numeric>

#include "check.h"
#include "cuda_array.h"
#include "cuda_scratch.h"
#include "kernels/attention.h"
#include "kernels/attention_launch.h"

namespace mlf {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(),
                kInf = std::numeric_limits<float>::infinity();

const ffi::Function& Slot() {
  static const ffi::Function slot =
      ffi::Function::GetGlobalRequired("my_llm_ffi.paged_attention.cuda");
  return slot;
}

/// A cache of some sequences of one length: pages in random order; what no sequence fills is NaN.
template <typename T>
struct Cache {
  int64_t kv_heads, head_dim, max_pages, n_pages;
  OwnedArray<T> k, v;
  OwnedArray<int32_t> positions, table;

  Cache(int64_t sequences, int64_t length, int64_t kv_heads, int64_t head_dim, uint64_t seed,
        float scale = 1.f)
      : kv_heads(kv_heads),
        head_dim(head_dim),
        max_pages((length + kPageSize - 1) / kPageSize + 1),
        n_pages(sequences * max_pages + 2),
        k(CudaOutput<T>({n_pages, kv_heads, head_dim, kPageSize})),
        v(CudaOutput<T>({n_pages, kv_heads, kPageSize, head_dim})),
        positions(OnCuda(OwnedArray<int32_t>({n_pages, kPageSize}))),
        table(OnCuda(OwnedArray<int32_t>({sequences, max_pages}))) {
    std::fill(positions.data.begin(), positions.data.end(), -1);
    std::fill(table.data.begin(), table.data.end(), -1);
    std::vector<int32_t> order(n_pages);
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = n_pages - 1; i > 0; --i) {
      std::swap(order[i], order[RandomBits(seed, i) % (i + 1)]);
    }
    for (int64_t s = 0; s < sequences; ++s) {
      for (int64_t p = 0; p < max_pages - 1; ++p) {
        table[s * max_pages + p] = order[s * max_pages + p];
      }
      Fill(s, length, seed + 10 + s, scale);
    }
  }

  int64_t Slot(int64_t sequence, int64_t position) const {
    return table[sequence * max_pages + position / kPageSize] * kPageSize + position % kPageSize;
  }
  int64_t KeyAt(int64_t slot, int64_t h, int64_t d) const {
    return ((slot / kPageSize * kv_heads + h) * head_dim + d) * kPageSize + slot % kPageSize;
  }
  int64_t ValueAt(int64_t slot, int64_t h, int64_t d) const {
    return ((slot / kPageSize * kv_heads + h) * kPageSize + slot % kPageSize) * head_dim + d;
  }

  void Fill(int64_t sequence, int64_t length, uint64_t seed, float scale) {
    const auto keys = RandomArray<T>({length, kv_heads, head_dim}, seed, scale),
               values = RandomArray<T>({length, kv_heads, head_dim}, seed + 100);
    for (int64_t i = 0; i < keys.size(); ++i) {
      const int64_t p = i / (kv_heads * head_dim), h = i / head_dim % kv_heads, d = i % head_dim,
                    slot = Slot(sequence, p);
      positions[slot] = static_cast<int32_t>(p);
      k[KeyAt(slot, h, d)] = keys[i];
      v[ValueAt(slot, h, d)] = values[i];
    }
  }
};

template <typename Q>
struct Queries {
  OwnedArray<Q> q;
  OwnedArray<int32_t> row, position;
  std::vector<int32_t> windows{}, sinks{};  // of each token, or empty

  int64_t tokens() const { return q.view.size(0); }
  int64_t heads() const { return q.view.size(1); }
  static ArrayView View(const std::vector<int32_t>& values) {
    if (values.empty()) return {};
    return {
        const_cast<int32_t*>(values.data()), kI32, {static_cast<int64_t>(values.size())}, kCuda};
  }
  bool Sees(int64_t t, int64_t entry, int64_t window) const {
    if (entry < 0 || entry > position[t]) return false;
    if (!windows.empty()) window = windows[t];
    const bool is_sink = !sinks.empty() && entry < sinks[t];
    return window == 0 || position[t] - entry < window || is_sink;
  }
  Queries Slice(int64_t begin, int64_t end) const {
    const int64_t size = heads() * q.view.size(2);
    Queries out{OnCuda(OwnedArray<Q>({end - begin, heads(), q.view.size(2)})),
                OnCuda(OwnedArray<int32_t>({end - begin})),
                OnCuda(OwnedArray<int32_t>({end - begin}))};
    std::copy_n(&q[begin * size], out.q.size(), out.q.data.data());
    std::copy_n(&row[begin], end - begin, out.row.data.data());
    std::copy_n(&position[begin], end - begin, out.position.data.data());
    if (!windows.empty()) out.windows = {&windows[begin], &windows[0] + end};
    if (!sinks.empty()) out.sinks = {&sinks[begin], &sinks[0] + end};
    return out;
  }
};

/// `tokens` queries of a sequence, the last one at `last`.
template <typename Q>
Queries<Q> MakeQueries(int64_t tokens, int64_t heads, int64_t head_dim, int32_t sequence,
                       int64_t last, uint64_t seed) {
  Queries<Q> out{OnCuda(RandomArray<Q>({tokens, heads, head_dim}, seed)),
                 OnCuda(OwnedArray<int32_t>({tokens})), OnCuda(OwnedArray<int32_t>({tokens}))};
  for (int64_t t = 0; t < tokens; ++t) {
    out.row[t] = sequence;
    out.position[t] = static_cast<int32_t>(last - tokens + 1 + t);
  }
  return out;
}

struct Options {
  double scale = 0.3;
  int64_t window = 0;
  double soft_cap = 0;
};

template <typename Q, typename T>
OwnedArray<Q> Run(const Cache<T>& c, const Queries<Q>& x, const Options& o = {}) {
  auto out = CudaOutput<Q>({x.tokens(), x.heads(), c.head_dim});
  Slot()(TensorView(out), TensorView(x.q), TensorView(c.k), TensorView(c.v),
         TensorView(c.positions), TensorView(c.table), TensorView(x.row), TensorView(x.position),
         TensorView(x.View(x.windows)), TensorView(x.View(x.sinks)), o.scale, o.window, o.soft_cap);
  return out;
}

/// One head of one token in float64.
template <typename Q, typename T>
std::vector<double> Reference(const Cache<T>& c, const Queries<Q>& x, int64_t t, int64_t h,
                              const Options& o) {
  const int64_t kv = h / (x.heads() / c.kv_heads), dim = c.head_dim;
  std::vector<double> score;
  std::vector<int64_t> slots;
  for (int64_t i = 0; i < c.max_pages * kPageSize; ++i) {
    const int32_t page = c.table[x.row[t] * c.max_pages + i / kPageSize];
    if (page < 0) break;
    const int64_t slot = page * kPageSize + i % kPageSize;
    if (!x.Sees(t, c.positions[slot], o.window)) continue;
    double s = 0;
    for (int64_t d = 0; d < dim; ++d) {
      s += x.q.At((t * x.heads() + h) * dim + d) * c.k.At(c.KeyAt(slot, kv, d));
    }
    s *= o.scale;
    score.push_back(o.soft_cap == 0 ? s : o.soft_cap * std::tanh(s / o.soft_cap));
    slots.push_back(slot);
  }
  std::vector<double> out(dim, 0.0);
  if (score.empty()) return out;
  const double max = *std::max_element(score.begin(), score.end());
  double sum = 0;
  for (size_t i = 0; i < score.size(); ++i) {
    const double weight = std::exp(score[i] - max);
    sum += weight;
    for (int64_t d = 0; d < dim; ++d) out[d] += weight * c.v.At(c.ValueAt(slots[i], kv, d));
  }
  for (double& value : out) value /= sum;
  return out;
}

template <typename Q, typename T>
void ExpectReference(const Cache<T>& c, const Queries<Q>& x, const Options& o = {}) {
  // One rounding of the output and, where products are of 16 bits, one of each weight.
  const double tolerance = sizeof(Q) == 4 ? 1e-5 : std::is_same_v<Q, F16> ? 2e-3 : 1.2e-2;
  const OwnedArray<Q> out = Run(c, x, o);
  for (int64_t i = 0; i < x.tokens() * x.heads(); ++i) {
    const std::vector<double> want = Reference(c, x, i / x.heads(), i % x.heads(), o);
    for (int64_t d = 0; d < c.head_dim; ++d) {
      MLF_EXPECT(std::abs(out.At(i * c.head_dim + d) - want[d]) <=
                 tolerance * std::max(1.0, std::abs(want[d])));  // false for NaN
    }
  }
}

template <typename Q, typename T>
void TestReference() {
  uint64_t seed = 1;
  for (int64_t head_dim : {1, 15, 64, 80, 144}) {
    for (auto [heads, kv_heads] : {std::pair{3, 1}, {8, 2}, {18, 1}}) {
      for (int64_t length : {1, 33, 70}) {
        const Cache<T> c(2, length, kv_heads, head_dim, seed += 200);
        const int64_t tokens = std::min<int64_t>(length, 5);
        const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
        ExpectReference(c, MakeQueries<Q>(tokens, heads, head_dim, 1, length - 1, ++seed),
                        {scale, 0, 0});
      }
    }
  }
  const Cache<T> wide(1, 40, 1, 264, 60);  // more dimensions than tensor cores are given
  ExpectReference(wide, MakeQueries<Q>(3, 2, 264, 0, 39, ++seed), {0.06, 0, 0});
  const Cache<T> c(1, 150, 2, 24, 61);
  for (int64_t window : {0, 1, 33, 100}) {
    for (double soft_cap : {0.0, 2.0}) {
      ExpectReference(c, MakeQueries<Q>(40, 6, 24, 0, 149, ++seed), {0.2, window, soft_cap});
    }
  }
}

/// A row's bits depend neither on what it does not see nor on where that lies, finite or not.
template <typename T>
void TestHidden() {
  Cache<T> c(1, 200, 2, 64, 7);
  for (int64_t p = 0; p < 200; ++p) {
    if (p % 7 == 3 || (p >= 64 && p < 96)) c.positions[c.Slot(0, p)] = -1;
  }
  const auto x = MakeQueries<T>(60, 6, 64, 0, 199, 9);
  ExpectReference(c, x);
  const OwnedArray<T> out = Run(c, x);
  for (int64_t p = 0; p < 200; ++p) {
    const int64_t slot = c.Slot(0, p);
    if (c.positions[slot] != -1) continue;
    for (int64_t i = 0; i < 2 * 64; ++i) {
      c.k[c.KeyAt(slot, i / 64, i % 64)] = FromFloat<T>(p % 2 == 0 ? kNan : kInf);
      c.v[c.ValueAt(slot, i / 64, i % 64)] = FromFloat<T>(p % 2 == 0 ? -kInf : kNan);
    }
  }
  MLF_EXPECT(SameBits(out, Run(c, x)));
  const int64_t slot = c.Slot(0, 180), row = 6 * 64;  // seen from token 40 on
  c.v[c.ValueAt(slot, 0, 5)] = FromFloat<T>(kInf);
  c.v[c.ValueAt(slot, 0, 6)] = FromFloat<T>(-kInf);
  c.v[c.ValueAt(slot, 0, 7)] = FromFloat<T>(kNan);
  const OwnedArray<T> poisoned = Run(c, x);
  MLF_EXPECT(std::memcmp(out.data.data(), poisoned.data.data(), 40 * row * sizeof(T)) == 0);
  MLF_EXPECT(poisoned.At(40 * row + 5) == kInf && poisoned.At(40 * row + 6) == -kInf);
  MLF_EXPECT(std::isnan(poisoned.At(40 * row + 7)) && !std::isnan(poisoned.At(40 * row + 8)));
}

/// Tables that the op cannot check there must not lead out of the arrays.
template <typename T>
void TestBadTables() {
  Cache<T> c(2, 70, 1, 24, 17);
  auto x = MakeQueries<T>(3, 2, 24, 0, 69, 19);
  const OwnedArray<T> out = Run(c, x);
  c.table[1] = static_cast<int32_t>(c.n_pages);
  x.row[1] = 2;
  x.row[2] = -1;
  const OwnedArray<T> bad = Run(c, x);
  MLF_EXPECT(!SameBits(out, bad));
  for (int64_t i = 2 * 24; i < 3 * 2 * 24; ++i) MLF_EXPECT(bad.At(i) == 0);
  x.position[0] = -1;
  for (int64_t i = 0; i < 2 * 24; ++i) MLF_EXPECT(Run(c, x.Slice(0, 1)).At(i) == 0);
}

/// Every token with a window and sinks of its own: by the formula, and the same alone.
template <typename T>
void TestViews() {
  Cache<T> c(1, 300, 2, 40, 81);
  c.positions[c.Slot(0, 3)] = -1;  // a hole among the sinks
  auto x = MakeQueries<T>(40, 6, 40, 0, 299, 83);
  const int32_t windows[] = {0, 1, 5, 31, 32, 33, 100, 1000}, sinks[] = {0, 1, 4, 32, 33, 70, 1000};
  for (int64_t t = 0; t < 40; ++t) {
    x.windows.push_back(windows[RandomBits(84, t) % 8]);
    x.sinks.push_back(sinks[RandomBits(85, t) % 7]);
  }
  ExpectReference(c, x, {0.2, 0, 0});
  const OwnedArray<T> out = Run(c, x);
  for (int64_t t = 0; t < 40; t += 3) {
    const OwnedArray<T> part = Run(c, x.Slice(t, t + 1));
    MLF_EXPECT(std::memcmp(part.data.data(), &out[t * 6 * 40], part.size() * sizeof(T)) == 0);
  }
}

/// A page that no token sees may as well be missing from the table.
template <typename T>
void TestMissingPages() {
  constexpr int64_t kLength = 700;
  for (const int64_t tokens : {1, 20}) {
    Cache<T> c(1, kLength, 1, 32, 91);
    auto x = MakeQueries<T>(tokens, 4, 32, 0, kLength - 1, 93);
    x.windows.assign(tokens, 64);
    x.sinks.assign(tokens, 36);
    const OwnedArray<T> out = Run(c, x);
    const int64_t first = 2, last = (kLength - tokens - 64) / kPageSize;  // of those unseen
    auto& table = c.table.data;
    table.erase(table.begin() + first, table.begin() + last);
    table.resize(c.max_pages, -1);
    MLF_EXPECT(SameBits(out, Run(c, x)));
    const ScratchAllocator allocator;
    MLF_EXPECT(SameBits(out, Run(c, x)));
    MLF_EXPECT(tokens > 1 || allocator.allocations() == 1);
  }
}

/// Scores rise and fall every `each` entries, and values differ by more than weights err, so that
/// it shows which maximum a sum is taken to belong to; where they fall far, a lower one overflows.
template <typename T>
void TestLevels(std::array<float, 5> levels, int64_t each) {
  constexpr float kValues[] = {2, -2, 3, 1, -1};
  constexpr int64_t kDim = 24;
  Cache<T> c(1, 5 * each, 1, kDim, 97);
  auto x = MakeQueries<T>(1, 4, kDim, 0, 5 * each - 1, 98);
  for (int64_t h = 0; h < 4; ++h) x.q[h * kDim] = FromFloat<T>(4.f);
  for (int64_t p = 0; p < 5 * each; ++p) {
    const int64_t slot = c.Slot(0, p);
    c.k[c.KeyAt(slot, 0, 0)] = FromFloat<T>(levels[p / each]);
    for (int64_t d = 0; d < kDim; ++d) {
      T& value = c.v[c.ValueAt(slot, 0, d)];
      value = FromFloat<T>(static_cast<float>(value) / 8 + kValues[p / each]);
    }
  }
  ExpectReference(c, x, {0.25, 0, 0});
  const OwnedArray<T> out = Run(c, x, {0.25, 0, 0});
  const ScratchAllocator allocator;
  MLF_EXPECT(SameBits(out, Run(c, x, {0.25, 0, 0})));
}

/// Pages in any order, so that there are more changes of segment than segments.
template <typename T>
void TestDisorder() {
  constexpr int64_t kPages = 2 * kMaxSegments;
  Cache<T> c(1, kPages * kPageSize, 1, 16, 95);
  const std::vector<int32_t> table = c.table.data;
  for (int64_t i = 0; i < kPages; ++i) c.table[i] = table[i % 2 * (kPages / 2) + i / 2];
  const auto x = MakeQueries<T>(1, 2, 16, 0, kPages * kPageSize - 1, 96);
  ExpectReference(c, x);
  const OwnedArray<T> out = Run(c, x);
  const ScratchAllocator allocator;
  MLF_EXPECT(SameBits(out, Run(c, x)) && allocator.allocations() == 1);
}

/// Whole, in chunks, token by token, split, interleaved with other sequences.
template <typename Q, typename T>
void TestInvariance(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  constexpr int64_t kLength = 560, kTokens = 70;
  const Cache<T> c(3, kLength, kv_heads, head_dim, 31);
  const auto x = MakeQueries<Q>(kTokens, heads, head_dim, 0, kLength - 1, 34);
  const int64_t row = heads * head_dim;
  const OwnedArray<Q> whole = Run(c, x);
  for (int64_t chunk : {1, 7, 33}) {
    for (int64_t t = 0; t < kTokens; t += chunk == 1 ? 11 : chunk) {
      const int64_t end = std::min(kTokens, t + chunk);
      const OwnedArray<Q> part = Run(c, x.Slice(t, end));
      MLF_EXPECT(std::memcmp(part.data.data(), &whole[t * row], part.size() * sizeof(Q)) == 0);
      if (chunk != 1) continue;
      const ScratchAllocator allocator;
      MLF_EXPECT(SameBits(Run(c, x.Slice(t, end)), part) && allocator.allocations() == 1);
    }
  }
  auto mixed = x.Slice(0, kTokens);
  for (int64_t t = 0; t < kTokens; ++t) mixed.row[t] = t % 4 == 1 ? 1 : t % 4 == 3 ? 2 : 0;
  const OwnedArray<Q> out = Run(c, mixed);
  for (int64_t t = 0; t < kTokens; t += 2) {
    MLF_EXPECT(std::memcmp(&out[t * row], &whole[t * row], row * sizeof(Q)) == 0);
  }
}

template <typename Q, typename T>
void TestNarrowPages() {  // float queries over narrow pages, and the like, are not rounded
  TestReference<Q, T>();
  TestInvariance<Q, T>(4, 2, 24);
}

/// A query that shared memory cannot hold.
template <typename T>
void TestTooLong() {
  const Cache<T> c(1, 2, 1, 9000, 81);
  const auto x = MakeQueries<T>(1, 2, 9000, 0, 1, 82);
  MLF_EXPECT_THROWS(Run(c, x), "NotImplementedError", "paged_attention.cuda: q [1, 2, 9000] ");
  MLF_EXPECT_THROWS(Run(c, x), "NotImplementedError", ": head_dim is 9000, expected at most ");
}

template <typename T>
void TestAll() {
  TestReference<T, T>();
  TestHidden<T>();
  TestBadTables<T>();
  TestViews<T>();
  TestMissingPages<T>();
  TestLevels<T>({0, 3, 5, 4, 6}, kFirstSegmentKeys);
  TestLevels<T>({-45, 45, 6, 50, -50}, kFirstSegmentKeys);
  TestLevels<T>({-45, 45, 6, 50, -50}, kPageSize);
  TestDisorder<T>();
  TestInvariance<T, T>(4, 1, 64);
  TestInvariance<T, T>(6, 3, 24);
  TestInvariance<T, T>(2, 2, 160);
  TestTooLong<T>();
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestAll<float>();
  mlf::TestAll<mlf::F16>();
  mlf::TestAll<mlf::BF16>();
  mlf::TestNarrowPages<float, mlf::BF16>();
  mlf::TestNarrowPages<mlf::F16, float>();
  return 0;
}
