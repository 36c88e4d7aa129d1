// Computed pages kept for requests that begin with the same tokens. Counterpart: prefix_cache.cc.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/attention.h"
#include "runtime/kv_cache.h"

namespace mlf {

/// A forest of full pages of a KvCache. A page is found by its parent's identity and by comparing
/// all of its tokens: a hash only says where to look, so that no collision can serve the entries of
/// another text. Entries depend on all tokens before them and on the root: an opaque string in
/// which the caller names whatever else they depend on (adapter, window, salt). A root that stood
/// for one thing must never stand for another: name an adapter by the instance, not by its name.
///
/// Pages that nobody else owns are idle and may be evicted, the least recently used first, a page
/// before those it follows. For one thread at a time; the KvCache must outlive it.
class PrefixCache {
 public:
  /// How far a sequence is known here. A default one stands before the first page.
  struct Cursor {
    int32_t node = -1;    // the page reached, in the tree
    uint64_t serial = 0;  // of that node: tells whether it is still the same
    int64_t tokens = 0;   // up to its end, a multiple of kPageSize
  };

  struct Stats {
    int64_t pages = 0;                                                // held
    int64_t evictable = 0;                                            // of them
    int64_t tokens_looked_up = 0, tokens_hit = 0, pages_evicted = 0;  // since the beginning
  };

  /// `seed` should be drawn at random, so that nobody outside can aim at one bucket.
  PrefixCache(KvCache& cache, uint64_t seed);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// Appends the longest known chain of pages that `tokens` begin with, at most max_tokens, to
  /// `seq`, which must be empty. InternalError when it is not.
  Cursor Take(std::string_view root, std::span<const int32_t> tokens, int64_t max_tokens,
              int64_t seq);
  /// What Take would append, and how many of its pages are idle. Not counted in the statistics.
  struct Match {
    int64_t tokens = 0, idle_pages = 0;
  };
  Match Known(std::string_view root, std::span<const int32_t> tokens, int64_t max_tokens) const;

  /// Registers the pages of `seq` that have become full since `cursor`, and moves it behind them.
  /// `tokens` are all those of the sequence whose entries are computed. Where an equal page is
  /// known already the sequence gets that one for its own: it would be held anyway, by what the
  /// sequence adds behind it. An altered sequence (KvCache::unaltered) is left out.
  void Put(std::string_view root, Cursor& cursor, std::span<const int32_t> tokens, int64_t seq);

  /// Frees up to `pages` idle pages; returns how many.
  int64_t Evict(int64_t pages);
  /// Pages that Evict can free.
  int64_t evictable() const { return n_idle_; }
  int64_t pages() const { return n_nodes_; }
  Stats stats() const;

  /// Forgets all pages of roots that begin with `prefix`; sequences keep theirs.
  void DropRoots(std::string_view prefix);
  void Clear() { DropRoots({}); }

 private:
  using Block = std::array<int32_t, kPageSize>;
  struct Root {
    uint64_t serial;
    int64_t n_nodes = 0;
  };
  using Roots = std::map<std::string, Root, std::less<>>;

  /// The node of a page has the page's number. In the list of idle nodes each comes after all of
  /// its descendants, since it becomes idle after them.
  struct Node {
    uint64_t serial = 0;  // 0: the page is not in the tree
    Roots::iterator root;
    int32_t parent = -1;
    int32_t busy = 0;  // 1 if somebody else owns the page, and 1 for each child that is busy
    int32_t newer = -1, older = -1;  // in the list of idle nodes
    int32_t next_in_bucket = -1;
    Block tokens = {};
  };

  bool InTree(int32_t page) const {
    return page < static_cast<int32_t>(nodes_.size()) && nodes_[page].serial != 0;
  }
  /// Whether the cursor's pages are still here and are those of `tokens`.
  bool Follows(const Cursor& cursor, uint64_t root, std::span<const int32_t> tokens) const;
  size_t BucketOf(uint64_t root, int32_t parent, const int32_t* tokens) const;
  /// The child of `parent` (−1: the first page of the root) with these kPageSize tokens, or −1.
  int32_t Find(uint64_t root, int32_t parent, const int32_t* tokens) const;
  /// Calls visit(node) for each known page of those that `tokens` begin with.
  template <typename Fn>
  void Walk(std::string_view root, std::span<const int32_t> tokens, int64_t max_tokens,
            Fn visit) const;
  uint64_t RootSerial(std::string_view root) const;  // 0: unknown
  void Add(std::string_view root, int32_t parent, int32_t page, const int32_t* tokens);
  void Remove(int32_t node);
  /// One reason more, or less, why this node and those before it cannot be evicted.
  void Pin(int32_t node);
  void Unpin(int32_t node);
  void LinkNewest(int32_t node);
  void Unlink(int32_t node);

  KvCache& cache_;
  const uint64_t seed_;
  uint64_t last_serial_ = 0;
  Roots roots_;
  std::vector<Node> nodes_;            // by page
  std::vector<int32_t> buckets_;       // first node of each, −1: none
  int32_t oldest_ = -1, newest_ = -1;  // idle nodes
  int64_t n_nodes_ = 0, n_idle_ = 0;
  Stats stats_;
};

}  // namespace mlf
