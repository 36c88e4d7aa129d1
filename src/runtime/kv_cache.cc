// The paged KV cache. Counterpart: kv_cache.h.
#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_set>
#include <utility>

#include "base/interrupt.h"
#include "kernels/attention.h"

namespace mlf {
namespace {

constexpr int32_t kEmpty = -1;

bool Within(int32_t position, int32_t p0, int32_t p1) { return position >= p0 && position < p1; }

int64_t DefaultPages(int64_t n_ctx, int64_t n_seq_max) {
  return (n_ctx + kPageSize - 1) / kPageSize + n_seq_max;
}

/// What the memory is for, as messages begin.
std::string Purpose(const CacheShape& shape, DLDataType dtype) {
  std::string text = "a KV cache of n_ctx=" + std::to_string(shape.n_ctx) +
                     " entries, n_seq_max=" + std::to_string(shape.n_seq_max);
  if (shape.n_pages != DefaultPages(shape.n_ctx, shape.n_seq_max))
    text += ", n_pages=" + std::to_string(shape.n_pages);
  return text + ", " + DtypeName(dtype);
}

/// Entries of a page up to its last that is not empty.
int64_t UsedOf(const int32_t* positions) {
  int64_t n = kPageSize;
  while (n > 0 && positions[n - 1] == kEmpty) --n;
  return n;
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, int64_t n_ctx, int64_t n_seq_max, DLDataType dtype)
    : KvCache(config, CacheShape{n_ctx, n_seq_max, DefaultPages(n_ctx, n_seq_max)}, dtype) {}

KvCache::KvCache(const ModelConfig& config, const CacheShape& shape, DLDataType dtype)
    : config_(config), dtype_(dtype), n_ctx_(shape.n_ctx), n_pages_(shape.n_pages) {
  const std::string purpose = Purpose(shape, dtype);
  const double bytes = 2.0 * config.n_layers * config.kv_dim() * kPageSize * DtypeBytes(dtype) *
                       static_cast<double>(n_pages_);
  constexpr double kMaxBytes =
      0x1p48;  // the address space; beyond it the product below would have lost its meaning
  if (bytes > kMaxBytes || n_pages_ > INT32_MAX)
    TVM_FFI_THROW(MemoryError) << purpose << " does not fit the address space";
  const int64_t layer_bytes = n_pages_ * config.kv_dim() * kPageSize * DtypeBytes(dtype);
  data_ = Buffer::For(purpose, 2 * config.n_layers * layer_bytes);
  positions_ = Buffer::For(purpose, n_pages_ * kPageSize * static_cast<int64_t>(sizeof(int32_t)));
  for (int64_t i = 0; i < config.n_layers; ++i) {
    uint8_t* k = data_.data() + 2 * i * layer_bytes;
    layers_.push_back(
        {ArrayView(k, dtype, {n_pages_, config.n_kv_heads, config.head_dim, kPageSize}),
         ArrayView(k + layer_bytes, dtype,
                   {n_pages_, config.n_kv_heads, kPageSize, config.head_dim})});
  }
  // So that pages change hands where memory is out.
  owners_.reserve(n_pages_);
  free_.reserve(n_pages_);
  sequences_.resize(shape.n_seq_max);
}

ArrayView KvCache::page_positions() const {
  return {positions_.data(), kI32, {n_pages_, kPageSize}};
}

int32_t* KvCache::PositionsOf(int32_t page) const {
  return positions_.data<int32_t>() + page * kPageSize;
}

std::vector<CacheEntry> KvCache::Entries(int64_t seq) const {
  std::vector<CacheEntry> entries;
  int64_t index = 0;
  for (int32_t page : sequences_[seq].pages) {
    for (int64_t i = 0; i < kPageSize; ++i, ++index) {
      const int32_t position = PositionsOf(page)[i];
      if (position != kEmpty) entries.push_back({index, page * kPageSize + i, position});
    }
  }
  return entries;
}

std::optional<std::pair<int32_t, int32_t>> KvCache::Range(int64_t seq) const {
  std::optional<std::pair<int32_t, int32_t>> range;
  for (const CacheEntry& entry : Entries(seq)) {
    if (!range) range.emplace(entry.position, entry.position);
    range->first = std::min(range->first, entry.position);
    range->second = std::max(range->second, entry.position);
  }
  return range;
}

void KvCache::CheckRoom(int64_t pages, int64_t free) const {
  if (pages <= free) return;
  TVM_FFI_THROW(RuntimeError) << "the KV cache is full: " << pages << " more pages of " << kPageSize
                              << " entries are needed, " << free << " of " << n_pages_
                              << " are free (n_ctx=" << n_ctx_ << ")";
}

int64_t KvCache::FreePagesWithout(const std::vector<int64_t>& sequences) const {
  std::vector<int32_t> owners = owners_;
  int64_t freed = 0;
  for (int64_t seq : sequences) {
    for (int32_t page : sequences_[seq].pages) freed += --owners[page] == 0 ? 1 : 0;
  }
  return free_pages() + freed;
}

int32_t KvCache::TakePage() {
  CheckRoom(1, free_pages());
  if (free_.empty()) {  // none was used before: the next one of untouched memory
    free_.push_back(static_cast<int32_t>(owners_.size()));
    owners_.push_back(0);
    std::fill_n(PositionsOf(free_.back()), kPageSize, kEmpty);
  }
  const int32_t page = free_.back();
  free_.pop_back();
  owners_[page] = 1;
  ++n_taken_;
  return page;
}

void KvCache::AddOwner(int32_t page) {
  if (++owners_[page] == 2 && watcher_) watcher_(page, true);
}

void KvCache::DropPage(int32_t page) {
  const int32_t left = --owners_[page];
  if (left == 1 && watcher_) watcher_(page, false);
  if (left > 0) return;
  std::fill_n(PositionsOf(page), kPageSize, kEmpty);
  free_.push_back(page);
  --n_taken_;
}

int32_t KvCache::PrivatePage(Sequence& sequence, size_t index) {
  const int32_t shared = sequence.pages[index];
  if (owners_[shared] == 1) return shared;
  const int32_t page = TakePage();
  for (const KvLayer& layer : layers_)
    kv_copy_page_kernel(layer.k.device(), layer.k, layer.v, shared, page);
  std::copy_n(PositionsOf(shared), kPageSize, PositionsOf(page));
  sequence.pages[index] = page;
  DropPage(shared);
  return page;
}

void KvCache::ReservePage(Sequence& sequence) {
  std::vector<int32_t>& pages = sequence.pages;
  if (pages.size() == pages.capacity()) pages.reserve(2 * pages.size() + 8);
}

int64_t KvCache::Append(int64_t seq, int32_t position) {
  Sequence& s = sequences_[seq];
  if (s.used == static_cast<int64_t>(s.pages.size()) * kPageSize) {
    ReservePage(s);
    s.pages.push_back(TakePage());
  }
  const int32_t page = PrivatePage(s, s.pages.size() - 1);
  const int64_t offset = s.used % kPageSize;
  PositionsOf(page)[offset] = position;
  s.unaltered = s.unaltered && position == s.used;
  ++s.used;
  Count(s, position);
  return page * kPageSize + offset;
}

void KvCache::Count(Sequence& s, int32_t position) {
  if (position == kEmpty) return;
  ++s.count;
  s.rising = s.rising && position > s.last;
  s.last = std::max(s.last, position);
}

void KvCache::Hold(int32_t page) {
  CheckOwned("Hold", page);
  AddOwner(page);
}

void KvCache::CheckOwned(const char* function, int32_t page) const {
  if (page >= 0 && page < static_cast<int64_t>(owners_.size()) && owners_[page] > 0) return;
  TVM_FFI_THROW(InternalError) << "KvCache::" << function << ": page " << page << " has no owner";
}

void KvCache::AppendShared(int64_t seq, int32_t page) {
  CheckOwned("AppendShared", page);
  Sequence& s = sequences_[seq];
  const int32_t* positions = PositionsOf(page);
  if (s.used % kPageSize != 0 || std::count(positions, positions + kPageSize, kEmpty) > 0) {
    TVM_FFI_THROW(InternalError) << "KvCache::AppendShared: sequence " << seq << " or page " << page
                                 << " is not full";
  }
  ReservePage(s);
  s.pages.push_back(page);
  AddOwner(page);
  for (int64_t i = 0; i < kPageSize; ++i) {
    s.unaltered = s.unaltered && positions[i] == s.used + i;
    Count(s, positions[i]);
  }
  s.used += kPageSize;
}

void KvCache::Exchange(int64_t seq, int64_t index, int32_t page) {
  CheckOwned("Exchange", page);
  int32_t& own = sequences_[seq].pages[index];
  if (own == page) return;
  if (!std::equal(PositionsOf(own), PositionsOf(own) + kPageSize, PositionsOf(page))) {
    TVM_FFI_THROW(InternalError) << "KvCache::Exchange: pages " << own << " and " << page
                                 << " hold other positions";
  }
  AddOwner(page);
  DropPage(std::exchange(own, page));
}

void KvCache::Truncate(int64_t seq, int64_t n) {
  if (n <= 0) return;
  Sequence& s = sequences_[seq];
  const int64_t used = std::max<int64_t>(s.used - n, 0);
  const size_t kept = (used + kPageSize - 1) / kPageSize;  // pages, of them the last may be cut
  const bool copies = used % kPageSize != 0 && owners_[s.pages[kept - 1]] > 1;
  const int64_t freed = std::count_if(s.pages.begin() + kept, s.pages.end(),
                                      [&](int32_t page) { return owners_[page] == 1; });
  CheckRoom(copies ? 1 : 0, free_pages() + freed);
  for (; s.pages.size() > kept; s.pages.pop_back()) {
    const int32_t* positions = PositionsOf(s.pages.back());
    s.count -= kPageSize - std::count(positions, positions + kPageSize, kEmpty);
    DropPage(s.pages.back());
  }
  if (used % kPageSize != 0) {
    int32_t* own = PositionsOf(PrivatePage(s, kept - 1));
    const int32_t* end = own + kPageSize;
    for (int32_t* p = own + used % kPageSize; p < end; ++p) {
      if (*p != kEmpty) --s.count;
      *p = kEmpty;
    }
  }
  if (!s.rising) return Settle(seq);
  SettleEnd(s);
  s.last = s.used == 0 ? -1 : PositionsOf(s.pages.back())[(s.used - 1) % kPageSize];
}

void KvCache::SettleEnd(Sequence& s) {
  // Entries freed at the end are taken again by the next append: the table is as if they had never
  // been.
  while (!s.pages.empty() && UsedOf(PositionsOf(s.pages.back())) == 0) {
    DropPage(s.pages.back());
    s.pages.pop_back();
  }
  const int64_t pages = static_cast<int64_t>(s.pages.size());
  s.used = pages == 0 ? 0 : (pages - 1) * kPageSize + UsedOf(PositionsOf(s.pages.back()));
  if (pages == 0) s.unaltered = s.rising = true;
}

void KvCache::Settle(int64_t seq) {
  Sequence& s = sequences_[seq];
  std::erase_if(s.pages, [&](int32_t page) {
    const bool empty = UsedOf(PositionsOf(page)) == 0;
    if (empty) DropPage(page);
    return empty;
  });
  s.count = 0;
  s.last = -1;
  s.rising = true;
  SettleEnd(s);
  CountFrom(s, 0);
}

void KvCache::CountFrom(Sequence& s, size_t first_page) {
  for (size_t i = first_page; i < s.pages.size(); ++i) {
    const int32_t* positions = PositionsOf(s.pages[i]);
    for (int64_t entry = 0; entry < kPageSize; ++entry) Count(s, positions[entry]);
  }
}

KvCache::Overlap KvCache::OverlapOf(int32_t page, int32_t p0, int32_t p1) const {
  const int32_t* positions = PositionsOf(page);
  const auto held = kPageSize - std::count(positions, positions + kPageSize, kEmpty);
  const auto within =
      std::count_if(positions, positions + kPageSize, [&](int32_t p) { return Within(p, p0, p1); });
  return within == 0 ? Overlap::kNone : within < held ? Overlap::kPart : Overlap::kAll;
}

void KvCache::Remove(int64_t seq, int32_t p0, int32_t p1) {
  const HoldInterrupts whole;
  Sequence& s = sequences_[seq];
  int64_t copies = 0, freed = 0;
  for (int32_t page : s.pages) {
    const Overlap overlap = OverlapOf(page, p0, p1);
    if (overlap == Overlap::kPart && owners_[page] > 1) ++copies;
    if (overlap == Overlap::kAll && owners_[page] == 1) ++freed;
  }
  CheckRoom(copies, free_pages() + freed);
  if (p0 < p1 && p0 <= s.last && p1 <= s.last && p1 > 0) s.unaltered = false;
  // Whole pages first: they make room, and one that others share is only left, not copied.
  std::erase_if(s.pages, [&](int32_t page) {
    const bool all = OverlapOf(page, p0, p1) == Overlap::kAll;
    if (all) DropPage(page);
    return all;
  });
  for (size_t index = 0; index < s.pages.size(); ++index) {
    if (OverlapOf(s.pages[index], p0, p1) == Overlap::kNone) continue;
    int32_t* own = PositionsOf(PrivatePage(s, index));
    std::replace_if(own, own + kPageSize, [&](int32_t p) { return Within(p, p0, p1); }, kEmpty);
  }
  Settle(seq);
}

void KvCache::Clear(int64_t seq) {
  Sequence& s = sequences_[seq];
  for (int32_t page : s.pages) DropPage(page);
  s.pages.clear();  // keeps its memory: what follows will need as much
  s.used = s.count = 0;
  s.last = -1;
  s.unaltered = s.rising = true;
}

void KvCache::Copy(int64_t src, int64_t dst, int32_t p0, int32_t p1) {
  const HoldInterrupts whole;
  const Sequence& s = sequences_[src];
  Sequence& d = sequences_[dst];
  const size_t n = s.pages.size(), before = d.pages.size();
  const bool all = p0 <= 0 && p1 > s.last;  // without a look at the entries
  const auto overlap_of = [&](int32_t page) {
    return all ? Overlap::kAll : OverlapOf(page, p0, p1);
  };
  CheckRoom(all ? 0
                : std::count_if(s.pages.begin(), s.pages.end(),
                                [&](int32_t page) { return overlap_of(page) == Overlap::kPart; }),
            free_pages());
  d.pages.reserve(before + n);
  const bool follows = before == 0 && p0 <= 0 && s.unaltered;
  for (size_t i = 0; i < n; ++i) {
    const int32_t page = s.pages[i];
    const Overlap overlap = overlap_of(page);
    if (overlap == Overlap::kNone) continue;
    d.pages.push_back(page);
    AddOwner(page);
    if (overlap == Overlap::kAll) continue;
    int32_t* own = PositionsOf(PrivatePage(d, d.pages.size() - 1));
    std::replace_if(own, own + kPageSize, [&](int32_t p) { return !Within(p, p0, p1); }, kEmpty);
  }
  if (d.pages.size() == before) return;
  d.unaltered = follows;
  if (before > 0 || !all) {
    CountFrom(d, before);
    return SettleEnd(d);
  }
  d.used = s.used;
  d.count = s.count;
  d.last = s.last;
  d.rising = s.rising;
}

void KvCache::CheckShifted(int64_t seq, int32_t p0, int32_t p1, int32_t delta) const {
  std::unordered_set<int64_t> taken;
  for (const CacheEntry& entry : Entries(seq)) {
    const int32_t position = entry.position;
    const int64_t moved = int64_t{position} + (Within(position, p0, p1) ? delta : 0);
    if (moved < 0 || moved >= INT32_MAX) {
      TVM_FFI_THROW(ValueError) << "seq_shift: delta " << delta << " moves position " << position
                                << " to " << moved;
    }
    if (!taken.insert(moved).second) {
      TVM_FFI_THROW(ValueError) << "seq_shift: delta " << delta << " moves two entries to position "
                                << moved;
    }
  }
}

void KvCache::Shift(int64_t seq, int32_t p0, int32_t p1, int32_t delta, ArrayView cos_sin,
                    bool rope_interleaved) {
  const HoldInterrupts whole;
  CheckShifted(seq, p0, p1, delta);
  Sequence& s = sequences_[seq];
  CheckRoom(std::count_if(s.pages.begin(), s.pages.end(),
                          [&](int32_t page) {
                            return owners_[page] > 1 && OverlapOf(page, p0, p1) != Overlap::kNone;
                          }),
            free_pages());
  std::vector<int64_t> moved;
  moved.reserve(s.count);
  for (size_t index = 0; index < s.pages.size(); ++index) {
    if (OverlapOf(s.pages[index], p0, p1) == Overlap::kNone) continue;
    const int32_t page = PrivatePage(s, index);
    for (int64_t i = 0; i < kPageSize; ++i) {
      if (!Within(PositionsOf(page)[i], p0, p1)) continue;
      PositionsOf(page)[i] += delta;
      moved.push_back(page * kPageSize + i);
    }
  }
  if (moved.empty()) return;
  const ArrayView entries(moved.data(), kI64, {static_cast<int64_t>(moved.size())});
  for (const KvLayer& layer : layers_) {
    kv_rotate_kernel(layer.k.device(), layer.k, entries, cos_sin, rope_interleaved);
  }
  s.unaltered = false;
  Settle(seq);
}

std::vector<int32_t> KvCache::Replace(const std::vector<SavedTable>& tables,
                                      const std::vector<int32_t>& positions) {
  const auto n_rows = static_cast<int64_t>(positions.size()) / kPageSize;
  std::vector<int64_t> replaced;
  for (const SavedTable& table : tables) replaced.push_back(table.seq);
  CheckRoom(n_rows, FreePagesWithout(replaced));
  for (const int64_t seq : replaced) Clear(seq);
  std::vector<int32_t> pages;
  pages.reserve(n_rows);
  for (int64_t row = 0; row < n_rows; ++row) {
    pages.push_back(TakePage());
    owners_[pages.back()] = 0;
    std::copy_n(positions.data() + row * kPageSize, kPageSize, PositionsOf(pages.back()));
  }
  for (const SavedTable& table : tables) {
    for (const uint32_t row : table.rows) {
      sequences_[table.seq].pages.push_back(pages[row]);
      AddOwner(pages[row]);
    }
    Settle(table.seq);
    sequences_[table.seq].unaltered = table.rows.empty();  // nobody knows how it came to be
  }
  return pages;
}

template <typename Fn>
void KvCache::ForEntry(int64_t slot, Fn fn) const {
  const int64_t page = slot / kPageSize, offset = slot % kPageSize, size = DtypeBytes(dtype_);
  for (const KvLayer& layer : layers_) {
    uint8_t* k = layer.k.data<uint8_t>() + (page * config_.kv_dim() * kPageSize + offset) * size;
    for (int64_t row = 0; row < config_.kv_dim(); ++row) fn(k + row * kPageSize * size, size);
    uint8_t* v = layer.v.data<uint8_t>() + page * config_.kv_dim() * kPageSize * size;
    const int64_t head_bytes = config_.head_dim * size;
    for (int64_t head = 0; head < config_.n_kv_heads; ++head) {
      fn(v + (head * kPageSize + offset) * head_bytes, head_bytes);
    }
  }
}

int64_t KvCache::entry_bytes() const {
  return 2 * config_.n_layers * config_.kv_dim() * DtypeBytes(dtype_);
}

void KvCache::ReadEntry(int64_t slot, uint8_t* out) const {
  ForEntry(slot, [&](const uint8_t* data, int64_t bytes) {
    std::memcpy(out, data, bytes);
    out += bytes;
  });
}

void KvCache::WriteEntry(int64_t slot, const uint8_t* in) {
  ForEntry(slot, [&](uint8_t* data, int64_t bytes) {
    std::memcpy(data, in, bytes);
    in += bytes;
  });
}

}  // namespace mlf
