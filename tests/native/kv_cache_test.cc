// Tests of src/runtime/kv_cache: random operations against lists of entries, and single cases.
#include "runtime/kv_cache.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "base/rng.h"
#include "check.h"
#include "kernels/attention.h"
#include "owned_array.h"
#include "tiny_cache.h"

namespace mlf {
namespace {

constexpr int64_t kSequences = 4, kContext = 128;
constexpr int32_t kEnd = INT32_MAX;

/// What an entry should be: one pair of keys and two values per layer, all made from its id.
struct Entry {
  int32_t position;
  float id;
  double angle;      // by which shifts have turned its keys
  uint64_t context;  // what it was computed over: all entries before it, and itself
};
using Floats = std::array<float, 8>;  // of two layers: k0 k1 v0 v1

Floats Content(const Entry& e) {
  const double c = std::cos(e.angle), s = std::sin(e.angle), x = e.id, y = e.id + 1;
  const auto k0 = static_cast<float>(x * c - y * s), k1 = static_cast<float>(x * s + y * c);
  return {k0, k1, e.id, -e.id, k0, k1, e.id, -e.id};
}

/// What a page should hold as long as somebody holds it.
struct HeldPage {
  int32_t page;
  std::vector<Entry> entries;
};

/// A cache beside lists that say what it should hold.
class Checked {
 public:
  Checked() : cache_(TinyCacheConfig(), kContext, kSequences, kF32), lists_(kSequences) {
    pages_ = cache_.free_pages();
    MLF_EXPECT(pages_ == kContext / kPageSize + kSequences);
    MLF_EXPECT(cache_.entry_bytes() == sizeof(Floats) && cache_.n_pages() == pages_);
    cache_.Watch([this](int32_t page, bool shared) {
      MLF_EXPECT(shared ? shared_.insert(page).second : shared_.erase(page) == 1);
    });
  }

  KvCache& cache() { return cache_; }
  std::vector<Entry>& list(int64_t seq) { return lists_[seq]; }

  int32_t Last(int64_t seq) const {
    int32_t last = -1;
    for (const Entry& e : lists_[seq]) last = std::max(last, e.position);
    return last;
  }

  /// Appends as far as there is room; false when the cache was full.
  bool Append(int64_t seq, int32_t position) {
    const uint64_t before = lists_[seq].empty() ? 0 : lists_[seq].back().context;
    const uint64_t id = ++ids_ % 100000;
    const Entry entry{position, static_cast<float>(id), 0, RandomBits(before, id)};
    int64_t slot;
    if (!Try([&] { slot = cache_.Append(seq, position); })) return false;
    const Floats content = Content(entry);
    cache_.WriteEntry(slot, reinterpret_cast<const uint8_t*>(content.data()));
    lists_[seq].push_back(entry);
    return true;
  }

  void Truncate(int64_t seq, int64_t n) {
    cache_.Truncate(seq, n);
    lists_[seq].resize(lists_[seq].size() - n);
  }

  /// Takes back all but the first `n`.
  void Keep(int64_t seq, size_t n) {
    const std::vector<CacheEntry> entries = cache_.Entries(seq);
    const int64_t end = entries.empty() ? 0 : entries.back().index + 1;
    const int64_t kept = n == entries.size() ? end : n == 0 ? 0 : entries[n - 1].index + 1;
    if (Try([&] { cache_.Truncate(seq, end - kept); })) lists_[seq].resize(n);
  }

  /// Holds the page at `index` of the table, if it is full.
  bool Hold(int64_t seq, int64_t index) {
    if (index >= static_cast<int64_t>(cache_.pages(seq).size())) return false;
    std::vector<Entry> held;
    const std::vector<CacheEntry> entries = cache_.Entries(seq);
    for (size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].index / kPageSize == index) held.push_back(lists_[seq][i]);
    }
    if (static_cast<int64_t>(held.size()) < kPageSize) return false;
    held_.push_back({cache_.pages(seq)[index], held});
    cache_.Hold(held_.back().page);
    return true;
  }

  void Release(size_t i) {
    cache_.Release(held_[i].page);
    held_.erase(held_.begin() + static_cast<int64_t>(i));
  }

  /// What a prefix cache does: the full pages of src, in a dst that was empty.
  void Adopt(int64_t src, int64_t dst) {
    if (src == dst || !cache_.unaltered(src)) return;
    Clear(dst);
    const size_t before = held_.size();
    for (int64_t i = 0; Hold(src, i);) ++i;
    Clear(src);
    for (size_t i = before; i < held_.size(); ++i) {
      cache_.AppendShared(dst, held_[i].page);
      lists_[dst].insert(lists_[dst].end(), held_[i].entries.begin(), held_[i].entries.end());
    }
    MLF_EXPECT(cache_.unaltered(dst));
    while (held_.size() > before) Release(before);
  }

  void Remove(int64_t seq, int32_t p0, int32_t p1) {
    if (!Try([&] { cache_.Remove(seq, p0, p1); })) return;
    std::erase_if(lists_[seq], [&](const Entry& e) { return e.position >= p0 && e.position < p1; });
  }

  /// False when the caller of a cache would have refused it: an entry not after those of dst.
  bool Copy(int64_t src, int64_t dst, int32_t p0, int32_t p1) {
    std::vector<Entry> copied;
    for (const Entry& e : lists_[src]) {
      if (e.position < p0 || e.position >= p1) continue;
      if (e.position <= Last(dst)) return false;
      copied.push_back(e);
    }
    if (src == dst || !Try([&] { cache_.Copy(src, dst, p0, p1); })) return false;
    lists_[dst].insert(lists_[dst].end(), copied.begin(), copied.end());
    return true;
  }

  void Shift(int64_t seq, int32_t p0, int32_t p1, int32_t delta) {
    std::vector<Entry> shifted = lists_[seq];
    std::set<int64_t> taken;
    bool allowed = true;
    for (Entry& e : shifted) {
      int64_t moved = e.position;
      if (e.position >= p0 && e.position < p1) {
        moved += delta;
        e.angle += 0.1 * delta;
      }
      allowed = allowed && moved >= 0 && moved < INT32_MAX && taken.insert(moved).second;
      e.position = static_cast<int32_t>(moved);
    }
    OwnedArray<float> cos_sin({1, 2, 1});
    cos_sin[0] = static_cast<float>(std::cos(0.1 * delta));
    cos_sin[1] = static_cast<float>(std::sin(0.1 * delta));
    const auto shift = [&] { cache_.Shift(seq, p0, p1, delta, cos_sin.view, true); };
    if (!allowed) {
      MLF_EXPECT_THROWS(shift(), "ValueError", "seq_shift: delta");
    } else if (Try(shift)) {
      lists_[seq] = shifted;
    }
  }

  void Clear(int64_t seq) {
    cache_.Clear(seq);
    lists_[seq].clear();
  }

  void Check(bool contents) const {
    std::map<int32_t, int32_t> owners;
    for (int64_t seq = 0; seq < kSequences; ++seq) {
      CheckSequence(seq, contents);
      for (const int32_t page : cache_.pages(seq)) ++owners[page];
    }
    for (const HeldPage& held : held_) {
      ++owners[held.page];
      for (int64_t i = 0; contents && i < kPageSize; ++i) {
        MLF_EXPECT(cache_.page_positions().data<int32_t>()[held.page * kPageSize + i] ==
                   held.entries[i].position);
        CheckContent(held.page * kPageSize + i, held.entries[i]);
      }
    }
    MLF_EXPECT(cache_.free_pages() == pages_ - static_cast<int64_t>(owners.size()));
    for (const auto& [page, n] : owners) {
      MLF_EXPECT(cache_.owners(page) == n && shared_.contains(page) == (n > 1));
    }
  }

  size_t n_held() const { return held_.size(); }
  int64_t full() const { return full_; }

 private:
  /// False when the cache was full; then nothing may have changed, which Check sees.
  template <typename Fn>
  bool Try(Fn fn) {
    try {
      fn();
      return true;
    } catch (const tvm::ffi::Error& e) {
      MLF_EXPECT(e.kind() == "RuntimeError" && e.message().find("is full") != std::string::npos);
      ++full_;
      return false;
    }
  }

  void CheckSequence(int64_t seq, bool contents) const {
    const std::vector<Entry>& list = lists_[seq];
    const std::vector<CacheEntry> entries = cache_.Entries(seq);
    MLF_EXPECT(entries.size() == list.size());
    MLF_EXPECT(cache_.count(seq) == static_cast<int64_t>(list.size()));
    MLF_EXPECT(cache_.last_position(seq) == Last(seq));
    int32_t first = kEnd;
    for (size_t i = 0; i < list.size(); ++i) {
      MLF_EXPECT(entries[i].position == list[i].position);
      first = std::min(first, list[i].position);
      if (contents) CheckContent(entries[i].slot, list[i]);
    }
    if (cache_.unaltered(seq)) CheckUnaltered(entries, list);
    const auto range = cache_.Range(seq);
    MLF_EXPECT(range.has_value() == !list.empty());
    MLF_EXPECT(list.empty() || (range->first == first && range->second == Last(seq)));
  }

  static void CheckUnaltered(const std::vector<CacheEntry>& entries,
                             const std::vector<Entry>& list) {
    uint64_t before = 0;
    for (size_t i = 0; i < list.size(); ++i) {
      MLF_EXPECT(entries[i].index == static_cast<int64_t>(i) && list[i].angle == 0);
      MLF_EXPECT(list[i].position == static_cast<int32_t>(i));
      before = RandomBits(before, static_cast<uint64_t>(list[i].id));
      MLF_EXPECT(list[i].context == before);
    }
  }

  void CheckContent(int64_t slot, const Entry& entry) const {
    Floats found;
    cache_.ReadEntry(slot, reinterpret_cast<uint8_t*>(found.data()));
    const Floats expected = Content(entry);
    for (size_t i = 0; i < found.size(); ++i) {
      const bool key = i % 4 < 2;  // turned by each shift, in float32
      MLF_EXPECT(std::fabs(found[i] - expected[i]) <= (key ? 1e-4 * (entry.id + 1) : 0));
    }
  }

  KvCache cache_;
  std::vector<std::vector<Entry>> lists_;
  std::vector<HeldPage> held_;
  std::set<int32_t> shared_;  // as the cache tells
  int64_t pages_ = 0, ids_ = 0, full_ = 0;
};

class Script {
 public:
  explicit Script(uint64_t seed) : seed_(seed) {}

  int64_t Below(int64_t n) { return static_cast<int64_t>(RandomBits(seed_, ++drawn_) % n); }

  void Step(Checked& c) {
    const int64_t seq = Below(kSequences), other = Below(kSequences);
    const int32_t last = c.Last(seq);
    const auto p0 = static_cast<int32_t>(Below(last + 2));
    const auto p1 = Below(3) == 0 ? kEnd : static_cast<int32_t>(p0 + Below(40));
    switch (Below(15)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return Grow(c, seq, Below(20));
      case 4:
        return Undo(c, seq);
      case 5:
        return c.Remove(seq, p0, p1);
      case 6:
      case 7:
        return CopyAfter(c, seq, other);
      case 8:
        c.Copy(seq, other, p0, p1);
        return;
      case 9:
        return c.Shift(seq, p0, p1, static_cast<int32_t>(Below(41) - 20));
      case 10:
        return c.Shift(seq, 0, kEnd, -static_cast<int32_t>(Below(last + 3)));
      case 11:
        return c.Adopt(seq, other);
      case 12:
        return c.Keep(seq,
                      c.list(seq).size() - Below(std::min<int64_t>(c.list(seq).size(), 40) + 1));
      case 13:
        if (c.n_held() > 0 && Below(2) == 0) return c.Release(Below(c.n_held()));
        if (c.n_held() < 2) c.Hold(seq, Below(3));
        return;
      default:
        return Below(4) == 0 ? c.Clear(seq) : c.Remove(seq, p0, kEnd);
    }
  }

 private:
  void Grow(Checked& c, int64_t seq, int64_t n) {
    int32_t position = c.Last(seq);
    for (int64_t i = 0; i < n && c.Append(seq, ++position); ++i) position += Below(8) == 0;
  }

  /// What a failed decode does: some entries, then back.
  void Undo(Checked& c, int64_t seq) {
    const auto before = c.list(seq).size();
    Grow(c, seq, Below(50));
    const auto grown = static_cast<int64_t>(c.list(seq).size() - before);
    c.Truncate(seq, Below(3) == 0 ? Below(grown + 1) : grown);
  }

  /// The entries of seq that dst can take.
  void CopyAfter(Checked& c, int64_t seq, int64_t dst) {
    if (Below(2) == 0) c.Clear(dst);
    c.Copy(seq, dst, c.Last(dst) + 1, kEnd);
  }

  uint64_t seed_, drawn_ = 0;
};

void TestRandomOperations() {
  Checked checked;
  Script script(2024);
  constexpr int kSteps = 10000;
  for (int step = 0; step < kSteps; ++step) {
    script.Step(checked);
    checked.Check(/*contents=*/step % 4 == 0);
  }
  MLF_EXPECT(checked.full() > 100);  // a full cache was met by all of this, often
  for (int64_t seq = 0; seq < kSequences; ++seq) checked.Clear(seq);
  while (checked.n_held() > 0) checked.Release(0);
  checked.Check(true);
  MLF_EXPECT(checked.cache().free_pages() == kContext / kPageSize + kSequences);
}

/// Four pages for each of the first two sequences: none is left.
void Fill(Checked& c) {
  for (int64_t seq : {0, 1}) {
    for (int32_t i = 0; i < 4 * kPageSize; ++i) MLF_EXPECT(c.Append(seq, i));
  }
  MLF_EXPECT(c.cache().free_pages() == 0);
  MLF_EXPECT(!c.Append(2, 0));
  c.Check(true);
}

/// An operation that finds the cache full half way must leave no half behind it.
void TestFull() {
  Checked c;
  Fill(c);
  MLF_EXPECT(c.Copy(0, 2, 0, kEnd));  // whole pages are shared and cost nothing
  MLF_EXPECT(!c.Copy(0, 3, 0, 100));  // the fourth page would be cut
  MLF_EXPECT(!c.Copy(1, 3, 100, kEnd));
  c.Check(true);
  c.Remove(2, 10, 100);
  c.Shift(2, 0, kEnd, 1000);
  MLF_EXPECT(c.full() == 5);
  c.Check(true);
  c.Remove(2, 32, 64);  // a whole page: nothing to copy
  c.Remove(2, 96, kEnd);
  MLF_EXPECT(c.full() == 5 && c.cache().pages(2).size() == 2);
  c.Remove(1, 0, 64);  // frees two
  MLF_EXPECT(c.cache().free_pages() == 2);
  c.Shift(2, 0, kEnd, 1000);
  MLF_EXPECT(c.full() == 5);
  c.Check(true);
}

/// Removing a page of one's own makes room for the copy of a shared one, in the same call.
void TestRemoveMakesRoom() {
  Checked c;
  Fill(c);
  MLF_EXPECT(c.Copy(0, 2, 0, 32));
  c.Remove(0, 16, 64);  // half of the shared page, all of the next
  MLF_EXPECT(c.full() == 1 && c.cache().free_pages() == 0);
  c.Check(true);
}

void TestSharing() {
  Checked c;
  for (int32_t i = 0; i < 40; ++i) c.Append(0, i);
  const int64_t free = c.cache().free_pages();
  MLF_EXPECT(c.Copy(0, 1, 0, kEnd) && c.cache().free_pages() == free);
  MLF_EXPECT(c.cache().pages(0) == c.cache().pages(1));
  c.Append(1, 40);  // goes into a page of its own
  MLF_EXPECT(c.cache().free_pages() == free - 1);
  MLF_EXPECT(c.cache().pages(0)[0] == c.cache().pages(1)[0]);
  MLF_EXPECT(c.cache().pages(0)[1] != c.cache().pages(1)[1]);
  c.Append(0, 40);  // whose page is its own by now
  MLF_EXPECT(c.cache().free_pages() == free - 1);
  c.Check(true);
  c.Clear(0);
  c.Check(true);
}

/// Saved tables over three pages, one of them shared, in place of what sequences 0 and 1 hold.
void TestReplace() {
  KvCache cache(TinyCacheConfig(), kContext, 3, kF16);
  MLF_EXPECT(cache.entry_bytes() == 16);
  const int64_t all = cache.free_pages();
  for (int32_t i = 0; i < 40; ++i) cache.Append(0, i), cache.Append(2, i);
  std::vector<int32_t> positions(3 * kPageSize, -1);
  for (const int64_t row : {0, 1, 2}) positions[row * kPageSize + 4 + row] = 10 * (row + 1);
  const auto pages = cache.Replace({{0, {0, 1}}, {1, {0, 2}}}, positions);
  MLF_EXPECT(cache.free_pages() == all - 2 - 3);
  MLF_EXPECT(cache.pages(0) == std::vector<int32_t>({pages[0], pages[1]}));
  MLF_EXPECT(cache.pages(1) == std::vector<int32_t>({pages[0], pages[2]}));
  MLF_EXPECT(cache.count(0) == 2 && cache.last_position(0) == 20 && cache.last_position(1) == 30);
  MLF_EXPECT(cache.Entries(1)[1].index == kPageSize + 6 && cache.count(2) == 40);
  MLF_EXPECT(cache.Append(1, 31) == pages[2] * kPageSize + 7);
  cache.Remove(1, 10, 11);  // its only entry of the shared page: left, not emptied
  MLF_EXPECT(cache.count(0) == 2 && cache.count(1) == 2);
  const std::vector<int32_t> many(kPageSize * all, 0);
  MLF_EXPECT_THROWS(cache.Replace({{0, {}}}, many), "RuntimeError", "is full");
  MLF_EXPECT(cache.count(0) == 2 && !cache.unaltered(0) && cache.unaltered(2));
  for (const int64_t seq : {0, 1, 2}) cache.Clear(seq);
  MLF_EXPECT(cache.free_pages() == all);
}

void TestTooLarge() {
  ModelConfig config = TinyCacheConfig();
  config.n_layers = 4096;
  config.head_dim = 1 << 24;
  MLF_EXPECT_THROWS(KvCache(config, 1 << 30, 65536, kF16), "MemoryError", "n_ctx=1073741824");
  const CacheShape pages{64, 2, int64_t{1} << 40};
  MLF_EXPECT_THROWS(KvCache(TinyCacheConfig(), pages, kF16), "MemoryError",
                    "n_pages=1099511627776");
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestRandomOperations();
  mlf::TestFull();
  mlf::TestRemoveMakesRoom();
  mlf::TestSharing();
  mlf::TestReplace();
  mlf::TestTooLarge();
  return 0;
}
