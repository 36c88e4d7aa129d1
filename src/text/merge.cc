// Greedy merging over a priority queue and a linked list. Counterpart: merge.h.
#include "text/merge.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace mlf {
namespace {

constexpr uint64_t kFree = UINT64_MAX;  // the pair (-1, -1)
constexpr size_t kMinSlots = 16;

uint64_t KeyOf(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

MergeTable::MergeTable(size_t pairs) {
  Grow(std::bit_ceil(std::max(kMinSlots, pairs * 8 / 5 + 1)));
}

void MergeTable::Grow(size_t slots) {
  std::vector<Slot> old(slots, Slot{kFree, {}});
  old.swap(slots_);
  shift_ = 64 - std::countr_zero(slots);
  for (const Slot& slot : old) {
    if (slot.key != kFree) slots_[Probe(slot.key)] = slot;
  }
}

size_t MergeTable::Probe(uint64_t key) const {
  // Fibonacci hashing: the top bits of the product depend on all bits of the key.
  size_t i = (key ^ key >> 32) * 0x9E3779B97F4A7C15u >> shift_;
  while (slots_[i].key != key && slots_[i].key != kFree) i = (i + 1) & (slots_.size() - 1);
  return i;
}

void MergeTable::Insert(int32_t left, int32_t right, PairMerge merge) {
  const uint64_t key = KeyOf(left, right);
  if (slots_[Probe(key)].key == key) return;
  if (++used_ * 8 > slots_.size() * 5) Grow(slots_.size() * 2);
  slots_[Probe(key)] = {key, merge};
}

const PairMerge* MergeTable::Find(int32_t left, int32_t right) const {
  const Slot& slot = slots_[Probe(KeyOf(left, right))];
  return slot.key == kFree ? nullptr : &slot.merge;
}

void Merger::Run(std::vector<int32_t>* symbols, size_t begin) {
  const size_t count = symbols->size() - begin;
  if (count < 2) return;
  Load(symbols->data() + begin, count);
  for (PairQueue::Entry entry; queue_.Pop(&entry);) {
    if (nodes_[entry.left].with_next.rank == entry.rank) MergeWithNext(entry.left);
  }
  int32_t* out = symbols->data() + begin;
  for (int32_t i = 0; i >= 0; i = nodes_[i].next) *out++ = nodes_[i].symbol;
  symbols->resize(out - symbols->data());
}

void Merger::Load(const int32_t* symbols, size_t count) {
  nodes_.resize(count);
  queue_.Reset(count);
  for (size_t i = 0; i < count; ++i) {
    const auto index = static_cast<int32_t>(i);
    nodes_[i] = {symbols[i], index - 1, i + 1 < count ? index + 1 : -1, {}};
  }
  for (size_t i = 0; i + 1 < count; ++i) Refresh(i);
}

PairMerge Merger::Lookup(size_t left) const {
  const PairMerge* merge = table_.Find(nodes_[left].symbol, nodes_[nodes_[left].next].symbol);
  return merge == nullptr ? PairMerge{} : *merge;
}

void Merger::MergeWithNext(size_t left) {
  Node& node = nodes_[left];
  Node& gone = nodes_[node.next];
  gone.with_next.rank = kNoMerge;  // its entries in the heap are stale from now on
  node.symbol = node.with_next.merged;
  node.next = gone.next;
  if (node.next >= 0) nodes_[node.next].previous = static_cast<int32_t>(left);
  if (node.previous >= 0) Refresh(node.previous);
  Refresh(left);
}

void Merger::Refresh(size_t left) {
  Node& node = nodes_[left];
  node.with_next = node.next >= 0 ? Lookup(left) : PairMerge{};
  if (node.with_next.rank == kNoMerge) return;
  queue_.Push({node.with_next.rank, static_cast<uint32_t>(left)});
}

}  // namespace mlf
