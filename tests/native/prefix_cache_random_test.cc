// Tests of src/runtime/prefix_cache: random requests against a naive model.
#include <algorithm>
#include <array>
#include <climits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/rng.h"
#include "check.h"
#include "runtime/prefix_cache.h"
#include "tiny_cache.h"

namespace mlf {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int64_t kSequences = 6, kContext = 8 * kPageSize, kPages = 40;
const std::array<std::string, 4> kRoots = {"", "a", "a,salt", "b"};

/// A cache of pages that says itself what its entries are: each is a hash of all it depends on.
class TextCache {
 public:
  TextCache() : cache_(TinyCacheConfig(), CacheShape{kContext, kSequences, kPages}, kF32) {}

  KvCache& pages() { return cache_; }

  void Write(int64_t slot, uint64_t hash) {
    const std::array<uint64_t, 4> content = {hash, 0, 0, 0};
    cache_.WriteEntry(slot, reinterpret_cast<const uint8_t*>(content.data()));
  }

  uint64_t Read(int64_t slot) const {
    std::array<uint64_t, 4> content;
    cache_.ReadEntry(slot, reinterpret_cast<uint8_t*>(content.data()));
    return content[0];
  }

  static uint64_t First(const std::string& root) {
    uint64_t hash = 7;
    for (const char c : root) hash = RandomBits(hash, static_cast<unsigned char>(c));
    return hash;
  }
  static uint64_t Next(uint64_t hash, int32_t token) { return RandomBits(hash, token); }

  /// The first entries of `seq` must be those of `tokens`.
  void Check(int64_t seq, const std::string& root, const Tokens& tokens) const {
    uint64_t hash = First(root);
    for (size_t i = 0; i < tokens.size(); ++i) {
      hash = Next(hash, tokens[i]);
      const int32_t page = cache_.pages(seq)[i / kPageSize];
      MLF_EXPECT(Read(page * kPageSize + static_cast<int64_t>(i) % kPageSize) == hash);
    }
  }

 private:
  KvCache cache_;
};

struct Request {
  std::string root;
  Tokens tokens;
  uint64_t hash = TextCache::First("");  // of the last entry
  PrefixCache::Cursor cursor{};
};

/// A page that the model says is known, by root and all tokens up to its end.
struct KnownPage {
  int32_t page;
  int64_t idle_since;  // in the order of becoming idle; −1: not idle
};
using Text = std::pair<std::string, Tokens>;

/// A prefix cache beside a map that says what it should know.
class Checked {
 public:
  Checked() : prefixes_(text_.pages(), 99), requests_(kSequences) {}

  const Request& request(int64_t seq) const { return requests_[seq]; }
  int64_t n_hit() const { return n_hit_; }
  int64_t n_evicted() const { return n_evicted_; }
  int64_t n_known() const { return static_cast<int64_t>(known_.size()); }

  void Start(int64_t seq, const std::string& root, const Tokens& prompt, int64_t max_tokens) {
    Finish(seq);
    Tokens hit;
    std::vector<int32_t> pages;
    for (const int64_t end = std::min<int64_t>(prompt.size(), max_tokens);;) {
      const auto next = static_cast<int64_t>(hit.size()) + kPageSize;
      if (next > end) break;
      const auto known = known_.find({root, Tokens(prompt.begin(), prompt.begin() + next)});
      if (known == known_.end()) break;
      hit = known->first.second;
      pages.push_back(known->second.page);
    }
    const PrefixCache::Match match = prefixes_.Known(root, prompt, max_tokens);
    const int64_t idle_before = prefixes_.evictable();
    const PrefixCache::Cursor cursor = prefixes_.Take(root, prompt, max_tokens, seq);
    MLF_EXPECT(cursor.tokens == static_cast<int64_t>(hit.size()) && match.tokens == cursor.tokens);
    MLF_EXPECT(match.idle_pages == idle_before - prefixes_.evictable());
    MLF_EXPECT(text_.pages().pages(seq) == pages && text_.pages().unaltered(seq));
    text_.Check(seq, root, hit);
    looked_up_ += static_cast<int64_t>(prompt.size());
    n_hit_ += cursor.tokens;
    uint64_t hash = TextCache::First(root);
    for (const int32_t token : hit) hash = TextCache::Next(hash, token);
    requests_[seq] = {root, hit, hash, cursor};
    Observe();
  }

  /// False when there is no room, even after an eviction.
  bool Append(int64_t seq, int32_t token) {
    Request& r = requests_[seq];
    int64_t slot;
    try {
      slot = text_.pages().Append(seq, static_cast<int32_t>(r.tokens.size()));
    } catch (const tvm::ffi::Error& e) {
      MLF_EXPECT(e.kind() == "RuntimeError");
      if (Evict(1) == 0) return false;
      slot = text_.pages().Append(seq, static_cast<int32_t>(r.tokens.size()));
    }
    r.tokens.push_back(token);
    r.hash = TextCache::Next(r.hash, token);
    text_.Write(slot, r.hash);
    Observe();
    return true;
  }

  void Put(int64_t seq, int64_t n_computed) {
    Request& r = requests_[seq];
    const int64_t n =
        std::min({n_computed, text_.pages().count(seq), static_cast<int64_t>(r.tokens.size())});
    const Tokens computed(r.tokens.begin(), r.tokens.begin() + n);
    if (text_.pages().unaltered(seq) && n >= r.cursor.tokens + kPageSize) {
      for (int64_t end = kPageSize; end <= n; end += kPageSize) {
        const int32_t own = text_.pages().pages(seq)[end / kPageSize - 1];
        known_.insert({{r.root, Tokens(computed.begin(), computed.begin() + end)}, {own, -1}});
      }
    }
    prefixes_.Put(r.root, r.cursor, computed, seq);
    Observe();
  }

  /// Takes back all but `n` tokens. The cursor stays, behind the end perhaps.
  void Keep(int64_t seq, int64_t n) {
    Request& r = requests_[seq];
    try {
      text_.pages().Truncate(seq, static_cast<int64_t>(r.tokens.size()) - n);
    } catch (const tvm::ffi::Error& e) {
      MLF_EXPECT(e.kind() == "RuntimeError");
      return;
    }
    r.tokens.resize(n);
    r.hash = TextCache::First(r.root);
    for (const int32_t token : r.tokens) r.hash = TextCache::Next(r.hash, token);
    Observe();
  }

  void Fork(int64_t src, int64_t dst) {
    if (src == dst) return;
    Finish(dst);
    text_.pages().Copy(src, dst, 0, INT32_MAX);
    requests_[dst] = requests_[src];
    Observe();
  }

  /// Takes an entry out of the midst: nothing of this sequence may get in any more.
  void Hole(int64_t seq, int32_t position) {
    if (requests_[seq].tokens.empty()) return;
    try {
      text_.pages().Remove(seq, position, position + 1);
    } catch (const tvm::ffi::Error& e) {
      MLF_EXPECT(e.kind() == "RuntimeError");
    }
    Put(seq, INT64_MAX);
    Finish(seq);
  }

  void Finish(int64_t seq) {
    text_.pages().Clear(seq);
    requests_[seq] = {};
    Observe();
  }

  int64_t Evict(int64_t n) {
    int64_t expected = 0;
    for (; expected < n; ++expected) {
      const auto victim = Victim();
      if (victim == known_.end()) break;
      known_.erase(victim);
    }
    const int64_t free = text_.pages().free_pages();
    MLF_EXPECT(prefixes_.Evict(n) == expected);
    MLF_EXPECT(text_.pages().free_pages() == free + expected);
    n_evicted_ += expected;
    Check();
    return expected;
  }

  void DropRoots(const std::string& prefix) {
    std::erase_if(known_, [&](const auto& k) { return k.first.first.starts_with(prefix); });
    prefixes_.DropRoots(prefix);
    Observe();
  }

  void Check() {
    std::set<int32_t> owned;
    int64_t idle = 0;
    for (const auto& [text, known] : known_) {
      const auto length = static_cast<int64_t>(text.second.size());
      MLF_EXPECT(prefixes_.Known(text.first, text.second, INT64_MAX).tokens == length);
      MLF_EXPECT(owned.insert(known.page).second && text_.pages().owners(known.page) >= 1);
      idle += known.idle_since < 0 ? 0 : 1;
    }
    MLF_EXPECT(prefixes_.evictable() == idle);
    const PrefixCache::Stats stats = prefixes_.stats();
    MLF_EXPECT(prefixes_.pages() == n_known() && stats.pages == n_known());
    MLF_EXPECT(stats.evictable == idle && stats.pages_evicted == n_evicted_);
    MLF_EXPECT(stats.tokens_looked_up == looked_up_ && stats.tokens_hit == n_hit_);
    for (int64_t seq = 0; seq < kSequences; ++seq) {
      const std::vector<int32_t>& pages = text_.pages().pages(seq);
      owned.insert(pages.begin(), pages.end());
    }
    MLF_EXPECT(text_.pages().free_pages() == kPages - static_cast<int64_t>(owned.size()));
  }

 private:
  using Known = std::map<Text, KnownPage>;

  static bool Begins(const Text& text, const Text& longer) {
    return text.first == longer.first && text.second.size() <= longer.second.size() &&
           std::equal(text.second.begin(), text.second.end(), longer.second.begin());
  }

  /// Marks what became idle and what is so no more: a page is while nobody else has it, nor one
  /// that follows it.
  void Observe() {
    std::vector<Known::iterator> idle;
    for (auto known = known_.begin(); known != known_.end(); ++known) {
      const bool busy = std::any_of(known_.begin(), known_.end(), [&](const auto& other) {
        return Begins(known->first, other.first) && text_.pages().owners(other.second.page) > 1;
      });
      if (busy) known->second.idle_since = -1;
      if (!busy && known->second.idle_since < 0) idle.push_back(known);
    }
    std::sort(idle.begin(), idle.end(), [](const auto& a, const auto& b) {
      return a->first.second.size() > b->first.second.size();
    });
    for (const auto& known : idle) known->second.idle_since = ++clock_;
  }

  /// The one idle for longest of those that nothing known follows.
  Known::iterator Victim() {
    auto victim = known_.end();
    for (auto known = known_.begin(); known != known_.end(); ++known) {
      if (known->second.idle_since < 0) continue;
      const bool leaf = std::none_of(known_.begin(), known_.end(), [&](const auto& other) {
        return other.first != known->first && Begins(known->first, other.first);
      });
      if (!leaf) continue;
      if (victim == known_.end() || known->second.idle_since < victim->second.idle_since)
        victim = known;
    }
    return victim;
  }

  TextCache text_;
  PrefixCache prefixes_;
  std::vector<Request> requests_;
  Known known_;
  int64_t clock_ = 0, looked_up_ = 0, n_hit_ = 0, n_evicted_ = 0;
};

/// Texts whose pages mostly agree, and otherwise differ in their first or last token only.
class Script {
 public:
  explicit Script(uint64_t seed) : seed_(seed) {}

  int64_t Below(int64_t n) { return static_cast<int64_t>(RandomBits(seed_, ++drawn_) % n); }

  void Step(Checked& c) {
    const int64_t seq = Below(kSequences);
    const auto n = static_cast<int64_t>(c.request(seq).tokens.size());
    switch (Below(16)) {
      case 0:
      case 1:
      case 2:
        c.Start(seq, kRoots[Below(kRoots.size())], Prompt(Below(5 * kPageSize)), Below(200));
        return Grow(c, seq, Below(3 * kPageSize));
      case 3:
      case 4:
      case 5:
        return Grow(c, seq, Below(2 * kPageSize));
      case 6:
      case 7:
      case 8:
        return c.Put(seq, Below(3) == 0 ? Below(n + 1) : n);
      case 9:
      case 10:
        return c.Finish(seq);
      case 11:
        return c.Fork(seq, Below(kSequences));
      case 12:
        return c.Keep(seq, Below(n + 1));
      case 13:
        return c.Hole(seq, static_cast<int32_t>(Below(n + 1)));
      case 14:
        c.Evict(Below(4));
        return;
      default:
        if (Below(10) == 0) c.DropRoots(kRoots[Below(kRoots.size())]);
    }
  }

 private:
  int32_t Token(int64_t i) {
    const int64_t offset = i % kPageSize;
    const bool edge = offset == 0 || offset == kPageSize - 1;
    return static_cast<int32_t>(i / kPageSize + (edge && Below(8) == 0 ? 1000 : 0));
  }

  Tokens Prompt(int64_t n) {
    Tokens tokens;
    for (int64_t i = 0; i < n; ++i) tokens.push_back(Token(i));
    return tokens;
  }

  void Grow(Checked& c, int64_t seq, int64_t n) {
    for (; n > 0; --n) {
      const auto size = static_cast<int64_t>(c.request(seq).tokens.size());
      if (size == kContext || !c.Append(seq, Token(size))) return;
    }
  }

  uint64_t seed_, drawn_ = 0;
};

void TestRandomRequests() {
  Checked checked;
  Script script(2026);
  for (int step = 0; step < 20000; ++step) {
    script.Step(checked);
    checked.Check();
  }
  MLF_EXPECT(checked.n_hit() > 10000 && checked.n_evicted() > 100);
  for (int64_t seq = 0; seq < kSequences; ++seq) checked.Finish(seq);
  checked.Evict(kPages);  // every page is idle by now
  MLF_EXPECT(checked.n_known() == 0);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestRandomRequests();
  return 0;
}
