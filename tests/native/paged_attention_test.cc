// Attention over a paged cache: float64 references, invariance, hidden entries.
#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/thread_pool.h"
#include "check.h"
#include "kernels/attention.h"
#include "kernels/rope.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr float kInf = std::numeric_limits<float>::infinity(),
                kNan = std::numeric_limits<float>::quiet_NaN();

/// A cache of some sequences: pages in random order, spare pages full of NaN, holes on demand.
template <typename T>
struct Cache {
  int64_t kv_heads, head_dim, max_pages, n_pages;
  OwnedArray<T> k, v;
  OwnedArray<int32_t> positions, table;

  Cache(int64_t sequences, int64_t length, int64_t kv_heads, int64_t head_dim, uint64_t seed)
      : kv_heads(kv_heads),
        head_dim(head_dim),
        max_pages((length + kPageSize - 1) / kPageSize + 1),
        n_pages(sequences * max_pages + 2),
        k({n_pages, kv_heads, head_dim, kPageSize}),
        v({n_pages, kv_heads, kPageSize, head_dim}),
        positions({n_pages, kPageSize}),
        table({sequences, max_pages}) {
    std::fill(k.data.begin(), k.data.end(), FromFloat<T>(kNan));
    std::fill(v.data.begin(), v.data.end(), FromFloat<T>(kNan));
    std::fill(positions.data.begin(), positions.data.end(), -1);
    std::fill(table.data.begin(), table.data.end(), -1);
    std::vector<int32_t> order(n_pages);
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = n_pages - 1; i > 0; --i)
      std::swap(order[i], order[RandomBits(seed, i) % (i + 1)]);
    for (int64_t s = 0; s < sequences; ++s) {
      for (int64_t p = 0; p < max_pages - 1; ++p) {
        table[s * max_pages + p] = order[s * max_pages + p];
      }
    }
  }

  int64_t Slot(int64_t sequence, int64_t position) const {
    return table[sequence * max_pages + position / kPageSize] * kPageSize + position % kPageSize;
  }

  /// Fills positions [0, length) of a sequence through the kernel.
  void Fill(int64_t sequence, int64_t length, uint64_t seed, float scale = 1.f) {
    const auto keys = RandomArray<float>({length, kv_heads, head_dim}, seed, scale),
               values = RandomArray<float>({length, kv_heads, head_dim}, seed + 1);
    OwnedArray<int64_t> slots({length});
    for (int64_t p = 0; p < length; ++p) {
      slots[p] = Slot(sequence, p);
      positions[slots[p]] = static_cast<int32_t>(p);
    }
    kv_append_kernel(kCpu, k, v, keys, values, slots);
    for (int64_t i = 0; i < keys.size(); ++i) {  // the layout that attention.h draws
      const int64_t p = i / (kv_heads * head_dim), h = i / head_dim % kv_heads, d = i % head_dim;
      const int64_t page = slots[p] / kPageSize * kv_heads + h, e = slots[p] % kPageSize;
      MLF_EXPECT(k.At((page * head_dim + d) * kPageSize + e) ==
                 static_cast<float>(FromFloat<T>(keys[i])));
      MLF_EXPECT(v.At((page * kPageSize + e) * head_dim + d) ==
                 static_cast<float>(FromFloat<T>(values[i])));
    }
  }
};

const ArrayView kNone;

struct Queries {
  OwnedArray<float> q;
  OwnedArray<int32_t> row, position;
  std::vector<int32_t> windows{}, sinks{};  // of each token, or empty

  static ArrayView View(const std::vector<int32_t>& values) {
    if (values.empty()) return kNone;
    return {const_cast<int32_t*>(values.data()), kI32, {static_cast<int64_t>(values.size())}};
  }
  bool Sees(int64_t t, int64_t entry, int64_t window) const {
    if (entry < 0 || entry > position[t]) return false;
    if (!windows.empty()) window = windows[t];
    const bool is_sink = !sinks.empty() && entry < sinks[t];
    return window == 0 || position[t] - entry < window || is_sink;
  }
};

/// `tokens` queries of a sequence, the last one at `last`.
Queries MakeQueries(int64_t tokens, int64_t heads, int64_t head_dim, int32_t sequence, int64_t last,
                    uint64_t seed, float scale = 1.f) {
  Queries out{RandomArray<float>({tokens, heads, head_dim}, seed, scale),
              OwnedArray<int32_t>({tokens}), OwnedArray<int32_t>({tokens})};
  for (int64_t t = 0; t < tokens; ++t) {
    out.row[t] = sequence;
    out.position[t] = static_cast<int32_t>(last - tokens + 1 + t);
  }
  return out;
}

template <typename T>
OwnedArray<float> Run(const Cache<T>& c, const Queries& x, double scale, int64_t window = 0,
                      double soft_cap = 0) {
  OwnedArray<float> out({x.q.view.size(0), x.q.view.size(1), c.head_dim});
  std::fill(out.data.begin(), out.data.end(), kNan);
  paged_attention_kernel(kCpu, out, x.q, c.k, c.v, c.positions, c.table, x.row, x.position,
                         x.View(x.windows), x.View(x.sinks), scale, window, soft_cap);
  return out;
}

/// One head of one token in float64.
template <typename T>
std::vector<double> Reference(const Cache<T>& c, const Queries& x, int64_t t, int64_t h,
                              double scale, int64_t window, double soft_cap) {
  const int64_t heads = x.q.view.size(1), kv = h / (heads / c.kv_heads), dim = c.head_dim;
  std::vector<double> score;
  std::vector<int64_t> entry;
  for (int64_t p = 0; p < c.max_pages; ++p) {
    const int32_t page = c.table[x.row[t] * c.max_pages + p];
    if (page < 0) break;
    for (int64_t e = 0; e < kPageSize; ++e) {
      const int32_t position = c.positions[page * kPageSize + e];
      if (!x.Sees(t, position, window)) continue;
      double s = 0;
      for (int64_t d = 0; d < dim; ++d) {
        s += x.q.At((t * heads + h) * dim + d) *
             c.k.At(((page * c.kv_heads + kv) * dim + d) * kPageSize + e);
      }
      s *= scale;
      score.push_back(soft_cap == 0 ? s : soft_cap * std::tanh(s / soft_cap));
      entry.push_back((page * c.kv_heads + kv) * kPageSize + e);
    }
  }
  std::vector<double> out(dim, 0.0);
  if (score.empty()) return out;
  const double max = *std::max_element(score.begin(), score.end());
  double sum = 0;
  for (size_t i = 0; i < score.size(); ++i) {
    const double weight = std::exp(score[i] - max);
    sum += weight;
    for (int64_t d = 0; d < dim; ++d) out[d] += weight * c.v.At(entry[i] * dim + d);
  }
  for (double& o : out) o /= sum;
  return out;
}

template <typename T>
void ExpectReference(const Cache<T>& c, const Queries& x, const OwnedArray<float>& out,
                     double scale, double tolerance, int64_t window = 0, double soft_cap = 0) {
  const int64_t heads = x.q.view.size(1);
  for (int64_t i = 0; i < x.q.view.size(0) * heads; ++i) {
    const std::vector<double> want = Reference(c, x, i / heads, i % heads, scale, window, soft_cap);
    for (int64_t d = 0; d < c.head_dim; ++d) {
      MLF_EXPECT(std::abs(out[i * c.head_dim + d] - want[d]) < tolerance);  // false for NaN
    }
  }
}

template <typename T>
void TestReference() {
  uint64_t seed = 1;
  for (int64_t head_dim : {1, 8, 15, 16, 17, 64, 80, 128}) {
    for (auto [heads, kv_heads] : {std::pair{1, 1}, {3, 1}, {8, 2}, {9, 3}, {7, 7}}) {
      for (int64_t length : {1, 31, 32, 33, 70}) {
        Cache<T> c(2, length, kv_heads, head_dim, ++seed);
        c.Fill(1, length, ++seed);
        const Queries x =
            MakeQueries(std::min<int64_t>(length, 5), heads, head_dim, 1, length - 1, ++seed);
        const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
        ExpectReference(c, x, Run(c, x, scale), scale, 1e-5);
      }
    }
  }
}

template <typename T>
void TestWindowAndSoftCap() {
  uint64_t seed = 61;
  for (int64_t head_dim : {20, 64}) {
    Cache<T> c(1, 150, 2, head_dim, ++seed);
    c.Fill(0, 150, ++seed, 3.f);
    for (int64_t window : {0, 1, 31, 32, 33, 100, 1000}) {
      for (double soft_cap : {0.0, 2.0}) {
        const Queries x = MakeQueries(70, 6, head_dim, 0, 149, ++seed);
        const OwnedArray<float> out = Run(c, x, 0.2, window, soft_cap);
        ExpectReference(c, x, out, 0.2, 2e-5, window, soft_cap);
      }
    }
  }
}

/// Queries and outputs of 16 bits: the same as float ones, rounded.
template <typename Q>
void TestNarrowQueries() {
  Cache<float> c(1, 70, 2, 24, 71);
  c.Fill(0, 70, 72);
  Queries x = MakeQueries(40, 4, 24, 0, 69, 73);
  OwnedArray<Q> q({40, 4, 24}), out({40, 4, 24});
  for (int64_t i = 0; i < q.size(); ++i) {
    q[i] = FromFloat<Q>(x.q[i]);
    x.q[i] = static_cast<float>(q[i]);
  }
  paged_attention_kernel(kCpu, out, q, c.k, c.v, c.positions, c.table, x.row, x.position, kNone,
                         kNone, 0.3, 0, 0);
  const OwnedArray<float> want = Run(c, x, 0.3);
  for (int64_t i = 0; i < q.size(); ++i) {
    MLF_EXPECT(static_cast<float>(out[i]) == static_cast<float>(FromFloat<Q>(want[i])));
  }
}

template <typename T>
void TestHoles() {
  Cache<T> c(1, 200, 2, 64, 7);
  c.Fill(0, 200, 8);
  for (int64_t p = 0; p < 200; ++p) {  // single holes, a whole page gone, positions out of order
    if (p % 7 == 3 || (p >= 64 && p < 96)) c.positions[c.Slot(0, p)] = -1;
  }
  std::swap(c.positions[c.Slot(0, 5)], c.positions[c.Slot(0, 150)]);
  const Queries x = MakeQueries(200, 6, 64, 0, 199, 9);
  const OwnedArray<float> out = Run(c, x, 0.125);
  ExpectReference(c, x, out, 0.125, 1e-5);
  for (int64_t p = 0; p < 200; ++p) {  // what a hole holds makes no difference, not even NaN
    const int64_t slot = c.Slot(0, p), page = slot / kPageSize, e = slot % kPageSize;
    if (c.positions[slot] != -1) continue;
    for (int64_t i = 0; i < 2 * 64; ++i) {
      c.k[(page * 2 * 64 + i) * kPageSize + e] = FromFloat<T>(kNan);
      c.v[(page * 2 + i / 64) * kPageSize * 64 + e * 64 + i % 64] = FromFloat<T>(kInf);
    }
  }
  MLF_EXPECT(SameBits(out, Run(c, x, 0.125)));
}

/// Later tokens of the same chunk must not reach earlier ones, even where they are not finite.
template <typename T>
void TestFutureIsHidden() {
  Cache<T> c(1, 40, 1, 16, 11);
  c.Fill(0, 40, 12);
  const Queries x = MakeQueries(40, 2, 16, 0, 39, 13);
  const OwnedArray<float> out = Run(c, x, 0.25);
  const int64_t slot = c.Slot(0, 30);
  for (int64_t d = 0; d < 16; ++d) {
    c.k[(slot / kPageSize * 16 + d) * kPageSize + slot % kPageSize] = FromFloat<T>(kInf);
    c.v[slot * 16 + d] = FromFloat<T>(kNan);
  }
  const OwnedArray<float> poisoned = Run(c, x, 0.25);
  MLF_EXPECT(std::memcmp(out.data.data(), poisoned.data.data(), 30 * 2 * 16 * 4) == 0);
  MLF_EXPECT(std::isnan(poisoned[30 * 2 * 16]));
}

void TestNothingVisible() {
  Cache<float> c(2, 40, 1, 24, 17);
  c.Fill(0, 40, 18);
  for (int32_t position : {-1, 3}) {
    Queries x = MakeQueries(3, 2, 24, position < 0 ? 0 : 1, 2, 19);
    std::fill(x.position.data.begin(), x.position.data.end(), position);
    for (float o : Run(c, x, 1).data) MLF_EXPECT(o == 0);
  }
  OwnedArray<float> none({0, 2, 24});
  OwnedArray<int32_t> no_tokens({0});
  paged_attention_kernel(kCpu, none, none, c.k, c.v, c.positions, c.table, no_tokens, no_tokens,
                         kNone, kNone, 1, 0, 0);
}

void TestExtremeScores() {
  Cache<float> c(1, 100, 1, 16, 21);
  c.Fill(0, 100, 22, 50.f);
  const Queries large = MakeQueries(4, 2, 16, 0, 99, 23, 50.f);  // scores of some 10^4
  ExpectReference(c, large, Run(c, large, 1), 1, 1e-2);          // softmax is nearly one-hot
  for (float sign : {1.f, -1.f}) {
    Queries x = MakeQueries(1, 1, 16, 0, 99, 24);
    for (float& q : x.q.data) q = 1e-3f;
    for (int64_t p = 0; p < 100; ++p) {  // a common offset leaves the softmax as it is
      const int64_t slot = c.Slot(0, p);
      for (int64_t d = 0; d < 16; ++d) {
        c.k[(slot / kPageSize * 16 + d) * kPageSize + slot % kPageSize] =
            sign * 1e7f + 1e2f * static_cast<float>(p % 5);
      }
    }
    ExpectReference(c, x, Run(c, x, 1), 1, 2e-2);  // float32 scores of 1e5 are 0.01 apart
  }
  Queries x = MakeQueries(1, 1, 16, 0, 99, 25);
  for (float& q : x.q.data) q = -1.f;
  for (int64_t p = 0; p < 100; ++p) {
    const int64_t slot = c.Slot(0, p);
    for (int64_t d = 0; d < 16; ++d) {
      c.k[(slot / kPageSize * 16 + d) * kPageSize + slot % kPageSize] = p == 99 ? 0.f : 3e38f;
    }
  }
  OwnedArray<float> out = Run(c, x, 1);  // all scores but the last are −inf
  for (int64_t d = 0; d < 16; ++d) MLF_EXPECT(out[d] == c.v[c.Slot(0, 99) * 16 + d]);
  x.position[0] = 98;
  for (float o : Run(c, x, 1).data) MLF_EXPECT(o == 0);
}

template <typename T>
Queries Slice(const Queries& x, int64_t begin, int64_t end) {
  const int64_t heads = x.q.view.size(1), dim = x.q.view.size(2);
  Queries out{OwnedArray<float>({end - begin, heads, dim}), OwnedArray<int32_t>({end - begin}),
              OwnedArray<int32_t>({end - begin})};
  std::copy_n(&x.q[begin * heads * dim], out.q.size(), out.q.data.data());
  std::copy_n(&x.row[begin], end - begin, out.row.data.data());
  std::copy_n(&x.position[begin], end - begin, out.position.data.data());
  if (!x.windows.empty()) out.windows = {&x.windows[begin], &x.windows[0] + end};
  if (!x.sinks.empty()) out.sinks = {&x.sinks[begin], &x.sinks[0] + end};
  return out;
}

/// Every token with a window and sinks of its own: by the formula, and the same alone.
template <typename T>
void TestViews() {
  constexpr int64_t kLength = 300, kTokens = 150, kHeads = 6, kDim = 40;
  Cache<T> c(1, kLength, 2, kDim, 81);
  c.Fill(0, kLength, 82, 2.f);
  c.positions[c.Slot(0, 3)] = -1;  // a hole among the sinks
  Queries x = MakeQueries(kTokens, kHeads, kDim, 0, kLength - 1, 83);
  const int32_t windows[] = {0, 1, 5, 31, 32, 33, 100, 1000}, sinks[] = {0, 1, 4, 32, 33, 70, 1000};
  for (int64_t t = 0; t < kTokens; ++t) {
    x.windows.push_back(windows[RandomBits(84, t) % 8]);
    x.sinks.push_back(sinks[RandomBits(85, t) % 7]);
  }
  const OwnedArray<float> out = Run(c, x, 0.2);
  ExpectReference(c, x, out, 0.2, 2e-5);
  for (const int64_t chunk : {1, 7}) {
    for (int64_t t = 0; t < kTokens; t += chunk) {
      const int64_t end = std::min(kTokens, t + chunk);
      const OwnedArray<float> part = Run(c, Slice<T>(x, t, end), 0.2);
      MLF_EXPECT(std::memcmp(part.data.data(), &out[t * kHeads * kDim], part.size() * 4) == 0);
    }
  }
  x.sinks.clear();
  x.windows.assign(kTokens, 33);
  const OwnedArray<float> own = Run(c, x, 0.2);
  x.windows.clear();
  MLF_EXPECT(SameBits(own, Run(c, x, 0.2, 33)));
}

/// A page that no token sees may as well be missing from the table, or hold anything.
template <typename T>
void TestMissingPages() {
  constexpr int64_t kLength = 320, kTokens = 40, kWindow = 64, kSinks = 36, kDim = 32;
  for (const int64_t tokens : {int64_t{1}, kTokens}) {
    Cache<T> c(1, kLength, 2, kDim, 91);
    c.Fill(0, kLength, 92);
    Queries x = MakeQueries(tokens, 4, kDim, 0, kLength - 1, 93);
    x.windows.assign(tokens, kWindow);
    x.sinks.assign(tokens, kSinks);
    const OwnedArray<float> out = Run(c, x, 0.2);
    const int64_t first = 2, last = (kLength - tokens - kWindow) / kPageSize;  // of those unseen
    for (int64_t p = first; p < last; ++p) {
      const int64_t size = 2 * kDim * kPageSize, page = c.table[p];
      std::fill_n(&c.k[page * size], size, FromFloat<T>(kNan));
      std::fill_n(&c.v[page * size], size, FromFloat<T>(kNan));
    }
    MLF_EXPECT(last > first && SameBits(out, Run(c, x, 0.2)));
    auto& table = c.table.data;
    table.erase(table.begin() + first, table.begin() + last);
    table.resize(c.max_pages, -1);
    MLF_EXPECT(SameBits(out, Run(c, x, 0.2)));
    table.erase(table.begin());  // one that they see
    table.push_back(-1);
    MLF_EXPECT(!SameBits(out, Run(c, x, 0.2)));
  }
}

/// Whole, in chunks, token by token, interleaved with another sequence, with 1 and 2 threads.
template <typename T>
void TestInvariance(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  constexpr int64_t kLength = 150;
  Cache<T> c(2, kLength, kv_heads, head_dim, 31);
  c.Fill(0, kLength, 32);
  c.Fill(1, kLength, 33);
  const Queries x = MakeQueries(kLength, heads, head_dim, 0, kLength - 1, 34);
  const int64_t row = heads * head_dim;
  const OwnedArray<float> whole = Run(c, x, 0.3);
  for (int threads : {1, 2}) {
    const ThreadLimit limit(threads);
    for (int64_t chunk : {1, 2, 7, 32, 150}) {
      for (int64_t t = 0; t < kLength; t += chunk) {
        const int64_t end = std::min(kLength, t + chunk);
        const OwnedArray<float> part = Run(c, Slice<T>(x, t, end), 0.3);
        MLF_EXPECT(std::memcmp(part.data.data(), &whole[t * row], (end - t) * row * 4) == 0);
      }
    }
  }
  Queries mixed = Slice<T>(x, 0, kLength);
  for (int64_t t = 1; t < kLength; t += 2) mixed.row[t] = 1;
  const OwnedArray<float> out = Run(c, mixed, 0.3);
  for (int64_t t = 0; t < kLength; t += 2) {
    MLF_EXPECT(std::memcmp(&out[t * row], &whole[t * row], row * 4) == 0);
  }
}

template <typename T>
void TestRotate(int64_t rotary, bool interleaved) {
  constexpr int64_t kDim = 24;
  Cache<T> c(1, 40, 2, kDim, 41);
  c.Fill(0, 40, 42);
  const std::vector<T> keys = c.k.data;
  OwnedArray<float> angles({1, 2, rotary / 2});
  OwnedArray<int32_t> delta({1});
  delta[0] = -7;
  rope_angles_kernel(kCpu, angles, delta, ArrayView(), 10000.0, 1.0);
  OwnedArray<int64_t> entries({3});
  for (int64_t i = 0; i < 3; ++i) entries[i] = c.Slot(0, 13 * i + 8);
  kv_rotate_kernel(kCpu, c.k, entries, angles, interleaved);
  for (int64_t i = 0; i < c.k.size(); ++i) {
    const int64_t page = i / (2 * kDim * kPageSize), d = i / kPageSize % kDim, e = i % kPageSize;
    const bool turned = std::find(entries.data.begin(), entries.data.end(), page * kPageSize + e) !=
                        entries.data.end();
    const auto old = [&](int64_t dim) {
      return static_cast<double>(static_cast<float>(keys[i + (dim - d) * kPageSize]));
    };
    if (!turned || d >= rotary) {
      MLF_EXPECT(std::memcmp(&c.k[i], &keys[i], sizeof(T)) == 0);
      continue;
    }
    const int64_t pair = interleaved ? d / 2 : d % (rotary / 2);
    const int64_t a = interleaved ? 2 * pair : pair, b = interleaved ? a + 1 : a + rotary / 2;
    const double angle = -7 * std::pow(10000.0, -2.0 * pair / rotary);
    const double want = d == a ? old(a) * std::cos(angle) - old(b) * std::sin(angle)
                               : old(a) * std::sin(angle) + old(b) * std::cos(angle);
    MLF_EXPECT(std::abs(c.k.At(i) - want) < (sizeof(T) == 4           ? 1e-6
                                             : std::is_same_v<T, F16> ? 4e-3
                                                                      : 3e-2));
  }
}

template <typename T>
void TestCopyPage() {
  Cache<T> c(1, 64, 2, 20, 51);
  c.Fill(0, 64, 52);
  const int64_t src = c.table[0], dst = c.table[1], size = 2 * 20 * kPageSize;
  kv_copy_page_kernel(kCpu, c.k, c.v, src, dst);
  for (const auto* pages : {&c.k, &c.v}) {
    MLF_EXPECT(std::memcmp(&(*pages)[src * size], &(*pages)[dst * size], size * sizeof(T)) == 0);
  }
  kv_copy_page_kernel(kCpu, c.k, c.v, src, src);
}

template <typename T>
void TestAll() {
  TestReference<T>();
  TestWindowAndSoftCap<T>();
  TestViews<T>();
  TestMissingPages<T>();
  TestHoles<T>();
  TestFutureIsHidden<T>();
  TestInvariance<T>(9, 3, 64);
  TestInvariance<T>(7, 1, 24);
  TestInvariance<T>(2, 2, 80);
  for (int64_t rotary : {24, 16}) {
    TestRotate<T>(rotary, false);
    TestRotate<T>(rotary, true);
  }
  TestCopyPage<T>();
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestAll<float>();
  mlf::TestAll<mlf::F16>();
  mlf::TestAll<mlf::BF16>();
  mlf::TestNarrowQueries<mlf::F16>();
  mlf::TestNarrowQueries<mlf::BF16>();
  mlf::TestNothingVisible();
  mlf::TestExtremeScores();
  return 0;
}
