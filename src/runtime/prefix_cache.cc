// Computed pages kept for requests that begin with the same tokens. Counterpart: prefix_cache.h.
#include "runtime/prefix_cache.h"

#include <algorithm>
#include <bit>

#include "base/rng.h"

namespace mlf {

PrefixCache::PrefixCache(KvCache& cache, uint64_t seed)
    : cache_(cache), seed_(seed), buckets_(std::bit_ceil<uint64_t>(cache.n_pages()), -1) {
  cache_.Watch([this](int32_t page, bool shared) {
    if (!InTree(page)) return;
    shared ? Pin(page) : Unpin(page);
  });
}

PrefixCache::~PrefixCache() {
  Clear();
  cache_.Watch(nullptr);
}

size_t PrefixCache::BucketOf(uint64_t root, int32_t parent, const int32_t* tokens) const {
  uint64_t hash = RandomBits(RandomBits(seed_, root), static_cast<uint32_t>(parent));
  for (int64_t i = 0; i < kPageSize; i += 2) {
    const uint64_t low = static_cast<uint32_t>(tokens[i]),
                   high = static_cast<uint32_t>(tokens[i + 1]);
    hash = RandomBits(hash, high << 32 | low);
  }
  return hash & (buckets_.size() - 1);
}

int32_t PrefixCache::Find(uint64_t root, int32_t parent, const int32_t* tokens) const {
  int32_t node = buckets_[BucketOf(root, parent, tokens)];
  for (; node >= 0; node = nodes_[node].next_in_bucket) {
    const Node& n = nodes_[node];
    if (n.parent == parent && n.root->second.serial == root &&
        std::equal(n.tokens.begin(), n.tokens.end(), tokens)) {
      break;
    }
  }
  return node;
}

template <typename Fn>
void PrefixCache::Walk(std::string_view root, std::span<const int32_t> tokens, int64_t max_tokens,
                       Fn visit) const {
  const auto found = roots_.find(root);
  if (found == roots_.end()) return;
  const int64_t end = std::min<int64_t>(static_cast<int64_t>(tokens.size()), max_tokens);
  int32_t node = -1;
  for (int64_t begin = 0; begin + kPageSize <= end; begin += kPageSize) {
    node = Find(found->second.serial, node, tokens.data() + begin);
    if (node < 0) return;
    visit(node);
  }
}

PrefixCache::Cursor PrefixCache::Take(std::string_view root, std::span<const int32_t> tokens,
                                      int64_t max_tokens, int64_t seq) {
  if (!cache_.pages(seq).empty())
    TVM_FFI_THROW(InternalError) << "PrefixCache::Take: sequence " << seq << " is not empty";
  Cursor cursor;
  try {
    Walk(root, tokens, max_tokens, [&](int32_t node) {
      cache_.AppendShared(seq, node);
      cursor = {node, nodes_[node].serial, cursor.tokens + kPageSize};
    });
  } catch (...) {
    cache_.Clear(seq);
    throw;
  }
  stats_.tokens_looked_up += static_cast<int64_t>(tokens.size());
  stats_.tokens_hit += cursor.tokens;
  return cursor;
}

PrefixCache::Match PrefixCache::Known(std::string_view root, std::span<const int32_t> tokens,
                                      int64_t max_tokens) const {
  Match match;
  Walk(root, tokens, max_tokens, [&](int32_t node) {
    match.tokens += kPageSize;
    match.idle_pages += nodes_[node].busy == 0 ? 1 : 0;
  });
  return match;
}

bool PrefixCache::Follows(const Cursor& cursor, uint64_t root,
                          std::span<const int32_t> tokens) const {
  if (cursor.tokens == 0) return true;
  if (!InTree(cursor.node) || nodes_[cursor.node].serial != cursor.serial ||
      nodes_[cursor.node].root->second.serial != root) {
    return false;
  }
  // While a node is here, so are those before it.
  const int32_t* block = tokens.data() + cursor.tokens;
  for (int32_t node = cursor.node; node >= 0; node = nodes_[node].parent) {
    block -= kPageSize;
    if (!std::equal(block, block + kPageSize, nodes_[node].tokens.begin())) return false;
  }
  return true;
}

void PrefixCache::Put(std::string_view root, Cursor& cursor, std::span<const int32_t> tokens,
                      int64_t seq) {
  const int64_t computed =
      std::min<int64_t>(static_cast<int64_t>(tokens.size()), cache_.count(seq));
  if (!cache_.unaltered(seq) || computed < cursor.tokens + kPageSize) return;
  if (!Follows(cursor, RootSerial(root), tokens)) cursor = {};
  while (computed >= cursor.tokens + kPageSize) {
    const int32_t* block = tokens.data() + cursor.tokens;
    const int64_t index = cursor.tokens / kPageSize;
    int32_t node = Find(RootSerial(root), cursor.node, block);
    if (node >= 0) {
      cache_.Exchange(seq, index, node);
    } else {
      node = cache_.pages(seq)[index];
      if (InTree(node)) return;
      Add(root, cursor.node, node, block);
    }
    cursor = {node, nodes_[node].serial, cursor.tokens + kPageSize};
  }
}

uint64_t PrefixCache::RootSerial(std::string_view root) const {
  const auto found = roots_.find(root);
  return found == roots_.end() ? 0 : found->second.serial;
}

void PrefixCache::Add(std::string_view root, int32_t parent, int32_t page, const int32_t* tokens) {
  // What needs memory comes first, so that a failure changes nothing.
  if (page >= static_cast<int64_t>(nodes_.size())) nodes_.resize(page + 1);
  auto found = roots_.find(root);
  if (found == roots_.end()) found = roots_.emplace(std::string(root), Root{++last_serial_}).first;
  cache_.Hold(page);
  int32_t& bucket = buckets_[BucketOf(found->second.serial, parent, tokens)];
  Node& node = nodes_[page];
  node = {.serial = ++last_serial_, .root = found, .parent = parent, .next_in_bucket = bucket};
  std::copy_n(tokens, kPageSize, node.tokens.begin());
  bucket = page;
  ++found->second.n_nodes;
  ++n_nodes_;
  LinkNewest(page);
  Pin(page);  // by the sequence that computed it
}

void PrefixCache::Remove(int32_t node) {
  Node& n = nodes_[node];
  const auto root = n.root;
  int32_t* link = &buckets_[BucketOf(root->second.serial, n.parent, n.tokens.data())];
  while (*link != node) link = &nodes_[*link].next_in_bucket;
  *link = n.next_in_bucket;
  if (n.busy == 0) Unlink(node);
  n.serial = 0;
  --n_nodes_;
  if (--root->second.n_nodes == 0) roots_.erase(root);
  cache_.Release(node);
}

int64_t PrefixCache::Evict(int64_t pages) {
  int64_t freed = 0;
  for (; freed < pages && oldest_ >= 0; ++freed) Remove(oldest_);
  stats_.pages_evicted += freed;
  return freed;
}

void PrefixCache::DropRoots(std::string_view prefix) {
  for (int32_t node = 0; node < static_cast<int32_t>(nodes_.size()); ++node) {
    if (InTree(node) && nodes_[node].root->first.starts_with(prefix)) Remove(node);
  }
}

PrefixCache::Stats PrefixCache::stats() const {
  Stats stats = stats_;
  stats.pages = n_nodes_;
  stats.evictable = n_idle_;
  return stats;
}

void PrefixCache::Pin(int32_t node) {
  for (; node >= 0 && nodes_[node].busy++ == 0; node = nodes_[node].parent) Unlink(node);
}

void PrefixCache::Unpin(int32_t node) {
  for (; node >= 0 && --nodes_[node].busy == 0; node = nodes_[node].parent) LinkNewest(node);
}

void PrefixCache::LinkNewest(int32_t node) {
  nodes_[node].older = newest_;
  nodes_[node].newer = -1;
  (newest_ < 0 ? oldest_ : nodes_[newest_].newer) = node;
  newest_ = node;
  ++n_idle_;
}

void PrefixCache::Unlink(int32_t node) {
  const Node& n = nodes_[node];
  (n.older < 0 ? oldest_ : nodes_[n.older].newer) = n.newer;
  (n.newer < 0 ? newest_ : nodes_[n.newer].older) = n.older;
  --n_idle_;
}

}  // namespace mlf
