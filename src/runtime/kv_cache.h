// The paged KV cache: pages, their owners, and operations on sequences. Counterpart: kv_cache.cc.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "model/config.h"
#include "model/forward.h"

namespace mlf {

/// One stored token of a sequence.
struct CacheEntry {
  int64_t index;  // in the sequence's table: which page it lies in decides the order of sums
  int64_t slot;   // in the cache: page * kPageSize + offset
  int32_t position;
};

/// How much a cache has room for.
struct CacheShape {
  int64_t n_ctx;      // entries of any one sequence
  int64_t n_seq_max;  // sequences
  int64_t n_pages;    // over all of them
};

/// A sequence of a saved state: its pages, as rows of the saved positions.
struct SavedTable {
  int64_t seq;
  std::vector<uint32_t> rows;
};

/// A sequence is a list of pages (its row of the block table) and the number of its entries in use,
/// holes included; a page may belong to several sequences and is copied before one of them changes
/// it. Every entry carries its position (−1: empty), which masks use, so that removed and shifted
/// ranges are exact.
class KvCache {
 public:
  /// Told when a page of one owner gets a second one (shared), or is back to one. Must not throw
  /// nor change the cache.
  using Watcher = std::function<void(int32_t page, bool shared)>;

  KvCache(const ModelConfig& config, const CacheShape& shape, DLDataType dtype);
  /// Room for n_ctx entries in any one sequence, and for n_ctx entries over all of them plus a page
  /// for each.
  KvCache(const ModelConfig& config, int64_t n_ctx, int64_t n_seq_max, DLDataType dtype);

  int64_t n_ctx() const { return n_ctx_; }
  int64_t n_seq_max() const { return static_cast<int64_t>(sequences_.size()); }
  int64_t n_pages() const { return n_pages_; }
  int64_t free_pages() const { return n_pages_ - n_taken_; }
  const std::vector<KvLayer>& layers() const { return layers_; }
  ArrayView page_positions() const;
  const std::vector<int32_t>& pages(int64_t seq) const { return sequences_[seq].pages; }

  /// First and last position held; nullopt when empty.
  std::optional<std::pair<int32_t, int32_t>> Range(int64_t seq) const;
  int32_t last_position(int64_t seq) const { return sequences_[seq].last; }  // −1 when empty
  int64_t count(int64_t seq) const { return sequences_[seq].count; }
  /// Whether entry i of the table stands at position i and was computed over all before it: nothing
  /// was removed from the midst, shifted, or put behind the entries of another sequence.
  bool unaltered(int64_t seq) const { return sequences_[seq].unaltered; }

  /// Takes the next entry of `seq` for `position` and returns it (page * kPageSize + offset).
  /// RuntimeError when no page is free.
  int64_t Append(int64_t seq, int32_t position);
  /// Takes back the last `n` entries of the table of `seq`. RuntimeError when that cuts a shared
  /// page and none is free for its copy, and then nothing has changed.
  void Truncate(int64_t seq, int64_t n);

  /// Lets `seq`, all of whose pages are full, end with `page` too, which has an owner and is full.
  /// What `unaltered` says then, the caller answers for: they must be the entries that follow.
  void AppendShared(int64_t seq, int32_t page);
  /// Lets page `index` of the table of `seq`, which is full, be `page` instead, whose entries are
  /// the same.
  void Exchange(int64_t seq, int64_t index, int32_t page);
  /// Makes the caller an owner of a page that has one already: its entries stay as they are.
  void Hold(int32_t page);
  /// Ends one Hold; the page is free once nobody owns it.
  void Release(int32_t page) { DropPage(page); }
  /// Sequences that have the page, and Holds.
  int32_t owners(int32_t page) const { return owners_[page]; }
  void Watch(Watcher watcher) { watcher_ = std::move(watcher); }

  // These throw RuntimeError when there are too few free pages for the copies of shared ones that
  // they need, and then nothing has changed.

  /// Empties entries with p0 <= position < p1.
  void Remove(int64_t seq, int32_t p0, int32_t p1);
  /// Lets dst hold the entries of src with p0 <= position < p1, after its own; whole pages are
  /// shared.
  void Copy(int64_t src, int64_t dst, int32_t p0, int32_t p1);
  /// Adds delta to the positions in [p0, p1) and turns their keys; `cos_sin` is the angle of delta
  /// positions.
  void Shift(int64_t seq, int32_t p0, int32_t p1, int32_t delta, ArrayView cos_sin,
             bool rope_interleaved);
  void Clear(int64_t seq);

  /// What would be free after Clear of all `sequences`.
  int64_t FreePagesWithout(const std::vector<int64_t>& sequences) const;
  /// RuntimeError "the KV cache is full" when `pages` are more than `free`.
  void CheckRoom(int64_t pages, int64_t free) const;

  /// Bytes of one entry over all layers, and raw copies of it, for saved states.
  int64_t entry_bytes() const;
  void ReadEntry(int64_t slot, uint8_t* out) const;
  void WriteEntry(int64_t slot, const uint8_t* in);
  /// Entries of `seq` in table order, holes left out.
  std::vector<CacheEntry> Entries(int64_t seq) const;
  /// Replaces sequences by saved ones over as many fresh pages as `positions` (int32 [pages,
  /// kPageSize], −1: empty) has rows; tables hold rows of it, and every row must have an entry and
  /// an owner. Returns the page of each row. RuntimeError when too few are free, and then nothing
  /// has changed.
  std::vector<int32_t> Replace(const std::vector<SavedTable>& tables,
                               const std::vector<int32_t>& positions);

 private:
  struct Sequence {
    std::vector<int32_t> pages;
    int64_t used = 0;   // the next entry to take, counted over all pages of the table
    int64_t count = 0;  // entries that hold a position
    int32_t last = -1;  // the largest position
    bool unaltered = true;
    bool rising = true;  // positions, along the table: the last is at the end
  };

  /// How many of a page's entries have positions in a range.
  enum class Overlap { kNone, kPart, kAll };

  Overlap OverlapOf(int32_t page, int32_t p0, int32_t p1) const;
  int32_t TakePage();
  void AddOwner(int32_t page);
  void DropPage(int32_t page);
  void CheckOwned(const char* function, int32_t page) const;
  /// Room for one more page in the table, so that adding it cannot fail once it is owned.
  static void ReservePage(Sequence& sequence);
  /// The page at `index` of the table, copied first when another sequence holds it too.
  int32_t PrivatePage(Sequence& sequence, size_t index);
  /// Brings the table in order after entries changed: no empty page, `used` after the last entry,
  /// counts. Allocates nothing, so that what failed for want of memory can be taken back.
  void Settle(int64_t seq);
  /// The same where only the end of the table changed; leaves `count` and `last` alone.
  void SettleEnd(Sequence& sequence);
  static void Count(Sequence& sequence, int32_t position);
  void CountFrom(Sequence& sequence, size_t first_page);
  void CheckShifted(int64_t seq, int32_t p0, int32_t p1, int32_t delta) const;
  int32_t* PositionsOf(int32_t page) const;
  template <typename Fn>
  void ForEntry(int64_t slot, Fn fn) const;

  ModelConfig config_;
  DLDataType dtype_;
  int64_t n_ctx_, n_pages_;
  Buffer data_, positions_;
  std::vector<KvLayer> layers_;
  // Pages below owners_.size() have been used before; those beyond are fresh, their memory
  // untouched.
  std::vector<int32_t> owners_;  // of each page: sequences and Holds
  std::vector<int32_t> free_;    // used before, held by nobody
  int64_t n_taken_ = 0;
  std::vector<Sequence> sequences_;
  Watcher watcher_;
};

}  // namespace mlf
