// Greedy merging of neighbouring symbols, best rank first: the core that SPM and byte-level BPE
// share. Counterpart: merge.cc.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "text/pair_queue.h"

namespace mlf {

constexpr uint32_t kNoMerge = UINT32_MAX;

/// What becomes of two neighbours. A smaller rank is merged earlier.
struct PairMerge {
  uint32_t rank = kNoMerge;
  int32_t merged = -1;
};

/// From (left symbol, right symbol) to PairMerge: open addressing, one probe of 16 bytes for most
/// look-ups. Symbols are any int32 but -1.
class MergeTable {
 public:
  /// Room for `pairs` insertions.
  explicit MergeTable(size_t pairs = 0);

  /// Keeps what is there already: the first of two equal pairs counts.
  void Insert(int32_t left, int32_t right, PairMerge merge);

  /// Null when the pair was never inserted.
  const PairMerge* Find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t key;
    PairMerge merge;
  };

  size_t Probe(uint64_t key) const;  // of the key, or of the free slot where it belongs
  void Grow(size_t slots);

  std::vector<Slot> slots_;  // a power of two, at most 5/8 of it used
  int shift_ = 63;
  size_t used_ = 0;
};

/// Merges sequences with one table; keeps its scratch memory from call to call, so it belongs to
/// one thread.
class Merger {
 public:
  explicit Merger(const MergeTable& table) : table_(table) {}

  /// While any two neighbours can merge, those of the smallest rank do, the leftmost first among
  /// equals. Replaces symbols[begin..] by the result. At most O(n log n).
  void Run(std::vector<int32_t>* symbols, size_t begin = 0);

 private:
  struct Node {
    int32_t symbol;
    int32_t previous;  // indices, -1 at the ends
    int32_t next;
    PairMerge with_next;
  };

  void Load(const int32_t* symbols, size_t count);
  PairMerge Lookup(size_t left) const;
  void MergeWithNext(size_t left);
  void Refresh(size_t left);

  const MergeTable& table_;
  std::vector<Node> nodes_;
  PairQueue queue_;  // an entry that no longer agrees with its node is stale: dropped when popped
};

}  // namespace mlf
