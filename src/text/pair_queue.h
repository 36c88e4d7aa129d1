// The priority queue of greedy merging. Counterpart: pair_queue.cc; its user is merge.cc.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mlf {

/// Entries (rank, left), smallest rank first, then smallest left.
///
/// A long text has few ranks and brings the entries of one rank nearly in order of left. So each
/// rank has a run, to which entries are appended while they ascend, and only what comes out of
/// order goes to a heap: a megabyte of one character then costs linear time instead of a heap too
/// large for the cache. A short word is better off with the heap alone.
class PairQueue {
 public:
  struct Entry {
    uint32_t rank;
    uint32_t left;
  };

  /// Empties the queue for a sequence of `count` symbols.
  void Reset(size_t count);
  void Push(Entry entry);
  /// False when the queue is empty.
  bool Pop(Entry* entry);

 private:
  struct Run {
    uint32_t rank;
    bool listed;  // in ranks_
    size_t head;
    std::vector<uint32_t> lefts;  // ascending; those before head are gone
  };

  bool Append(Entry entry);
  Run* FirstRun();

  bool use_runs_ = false;
  std::vector<uint64_t> heap_;   // rank << 32 | left
  std::vector<uint64_t> ranks_;  // heap of rank << 32 | index of its run
  std::vector<Run> runs_;
  std::vector<int32_t> run_of_rank_;  // -1: none yet
};

}  // namespace mlf
