// Runs and a heap. Counterpart: pair_queue.h.
#include "text/pair_queue.h"

#include <algorithm>
#include <functional>

namespace mlf {
namespace {

constexpr size_t kRunsFrom = 1024;  // symbols; a heap of this size lies in the first-level cache

uint64_t Pack(uint32_t high, size_t low) { return static_cast<uint64_t>(high) << 32 | low; }

void PushHeap(std::vector<uint64_t>* heap, uint64_t item) {
  heap->push_back(item);
  std::push_heap(heap->begin(), heap->end(), std::greater<>());
}

void PopHeap(std::vector<uint64_t>* heap) {
  std::pop_heap(heap->begin(), heap->end(), std::greater<>());
  heap->pop_back();
}

}  // namespace

void PairQueue::Reset(size_t count) {
  use_runs_ = count >= kRunsFrom;
  heap_.clear();
  ranks_.clear();
  for (const Run& run : runs_) run_of_rank_[run.rank] = -1;
  runs_.clear();
}

void PairQueue::Push(Entry entry) {
  if (use_runs_ && Append(entry)) return;
  PushHeap(&heap_, Pack(entry.rank, entry.left));
}

bool PairQueue::Pop(Entry* entry) {
  Run* run = FirstRun();
  if (run == nullptr && heap_.empty()) return false;
  const uint64_t in_run = run == nullptr ? UINT64_MAX : Pack(run->rank, run->lefts[run->head]);
  uint64_t first = in_run;
  if (!heap_.empty() && heap_.front() < in_run) {
    first = heap_.front();
    PopHeap(&heap_);
  } else {
    ++run->head;
  }
  *entry = {static_cast<uint32_t>(first >> 32), static_cast<uint32_t>(first)};
  return true;
}

/// False when the entry would break the order of its run.
bool PairQueue::Append(Entry entry) {
  if (entry.rank >= run_of_rank_.size()) run_of_rank_.resize(entry.rank + size_t{1}, -1);
  int32_t& index = run_of_rank_[entry.rank];
  if (index < 0) {
    index = static_cast<int32_t>(runs_.size());
    runs_.push_back({entry.rank, false, 0, {}});
  }
  Run& run = runs_[index];
  if (run.head < run.lefts.size() && entry.left < run.lefts.back()) return false;
  run.lefts.push_back(entry.left);
  if (!run.listed) PushHeap(&ranks_, Pack(entry.rank, index));
  run.listed = true;
  return true;
}

PairQueue::Run* PairQueue::FirstRun() {
  while (!ranks_.empty()) {
    Run& run = runs_[static_cast<uint32_t>(ranks_.front())];
    if (run.head < run.lefts.size()) return &run;
    run.listed = false;
    PopHeap(&ranks_);
  }
  return nullptr;
}

}  // namespace mlf
