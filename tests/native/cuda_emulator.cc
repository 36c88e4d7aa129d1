// Runs a grid on the CPU, the threads of a block as fibers. Counterparts: cuda_emulator.h,
// cuda_emulator_runtime.cc.
#include "cuda_emulator.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "cuda_fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace mlf::emulated {
namespace {

struct Copy {
  void* to;
  const void* from;
  bool valid;
  int group;
};

/// A thread of the block. Lives on for the next one.
struct Thread {
  std::unique_ptr<Fiber> fiber;
  unsigned mask;  // what it waits for in its warp
  WarpFn fn;
  void* own;
  const char* place;
  std::vector<Copy> copies;
  int group;
};

/// Bits of lanes.
struct Warp {
  uint32_t ready, at_block, at_warp, ended;
  unsigned first;  // the lane that the order of this warp begins with
  bool backwards;
};

/// The block that runs; there is one at a time.
struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<int> order;  // of the warps: one runs as far as it can before the next
  const std::function<void()>* kernel = nullptr;
  std::unique_ptr<unsigned char[]> shared;
  int count = 0, alive = 0, arrived = 0;
  int sum = 0, last_sum = 0;
  int current = 0;
  uint64_t seed = 0, drawn = 0;
  std::string fault;
};
Block block;

unsigned Draw(unsigned below) {
  return static_cast<unsigned>(RandomUniform(block.seed, block.drawn++) * below);
}

/// Another order of the threads.
void Reorder() {
  for (size_t i = block.order.size(); i > 1; --i)
    std::swap(block.order[i - 1], block.order[Draw(i)]);
  for (Warp& w : block.warps) w.first = Draw(32), w.backwards = Draw(2) != 0;
}

Warp& WarpOf(int thread) { return block.warps[thread / 32]; }
uint32_t BitOf(int thread) { return 1u << thread % 32; }

/// The ready thread that comes first; -1 if there is none.
int NextThread() {
  for (int i : block.order) {
    const Warp& w = block.warps[i];
    if (w.ready == 0) continue;
    const uint32_t turned = std::rotr(w.ready, static_cast<int>(w.first));
    const int at = w.backwards ? 31 - std::countl_zero(turned) : std::countr_zero(turned);
    return i * 32 + (at + static_cast<int>(w.first)) % 32;
  }
  return -1;
}

/// Lets the waiting lanes of `thread`'s group go on if all are there.
void TryWarp(int thread) {
  Warp& warp = WarpOf(thread);
  const Thread& self = block.threads[thread];
  void* lanes[32] = {};
  for (uint32_t left = self.mask & ~warp.ended; left != 0; left &= left - 1) {
    const int lane = std::countr_zero(left);
    const Thread& other = block.threads[thread / 32 * 32 + lane];
    if ((warp.at_warp >> lane & 1) == 0 || other.mask != self.mask || other.fn != self.fn) return;
    lanes[lane] = other.own;
  }
  self.fn(lanes);
  const uint32_t group = self.mask & ~warp.ended;
  warp.at_warp &= ~group;
  warp.ready |= group;
}

void TryBlock() {
  if (block.arrived < block.alive) return;
  for (Warp& w : block.warps) w.ready |= std::exchange(w.at_block, 0);
  block.arrived = 0;
  block.last_sum = std::exchange(block.sum, 0);
  Reorder();
}

void EndThread() {
  Warp& warp = WarpOf(block.current);
  warp.ready &= ~BitOf(block.current);
  warp.ended |= BitOf(block.current);
  --block.alive;
  TryBlock();
  // The lanes that may have waited for this one.
  for (uint32_t left = warp.at_warp; left != 0; left = left & (left - 1) & warp.at_warp)
    TryWarp(block.current / 32 * 32 + std::countr_zero(left));
}

/// A fiber runs the thread of the same number of block after block.
void RunThreads() {
  while (true) {
    (*block.kernel)();
    EndThread();
    Fiber::Leave();
  }
}

/// Who waits for what, for the first thread of each kind.
std::string Deadlock() {
  std::map<std::string, std::pair<int, int>> kinds;  // to first thread and number
  for (int t = 0; t < block.count; ++t) {
    const Thread& thread = block.threads[t];
    if ((WarpOf(t).ended & BitOf(t)) != 0) continue;
    char mask[32];
    std::snprintf(mask, sizeof mask, " with mask %08x", thread.mask);
    const bool in_warp = (WarpOf(t).at_warp & BitOf(t)) != 0;
    ++kinds.try_emplace(in_warp ? thread.place + std::string(mask) : "__syncthreads", t, 0)
          .first->second.second;
  }
  std::string text = "deadlock:";
  for (const auto& [what, who] : kinds) {
    text += (text.back() == ':' ? " " : ", ") + std::to_string(who.second) + " threads from " +
            std::to_string(who.first) + " on wait at " + what;
  }
  return text + ", " + std::to_string(block.count - block.alive) + " have ended";
}

void Prepare(const cudaLaunchConfig_t& config) {
  blockDim = config.blockDim, gridDim = config.gridDim;
  block.count = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  if (block.threads.size() < static_cast<size_t>(block.count)) block.threads.resize(block.count);
  for (int t = 0; t < block.count; ++t) {
    if (block.threads[t].fiber == nullptr)
      block.threads[t].fiber = std::make_unique<Fiber>(RunThreads);
  }
  block.warps.resize((block.count + 31) / 32);
  block.order.resize(block.warps.size());
  std::iota(block.order.begin(), block.order.end(), 0);
  block.shared.reset(new unsigned char[config.dynamicSmemBytes]);  // exactly, for AddressSanitizer
}

/// Runs a block to its end or to a fault.
void RunBlock(uint64_t index, size_t shared_bytes) {
  blockIdx = {static_cast<unsigned>(index % gridDim.x),
              static_cast<unsigned>(index / gridDim.x % gridDim.y),
              static_cast<unsigned>(index / gridDim.x / gridDim.y)};
  std::memset(block.shared.get(), 0xFF, shared_bytes);
  for (Warp& w : block.warps) w = {~0u, 0, 0, 0, 0, false};
  if (block.count % 32 != 0) {
    block.warps.back().ready = (1u << block.count % 32) - 1;
    block.warps.back().ended = ~block.warps.back().ready;
  }
  for (int t = 0; t < block.count; ++t) block.threads[t].copies.clear(), block.threads[t].group = 0;
  block.alive = block.count;
  block.arrived = block.sum = 0;
  Reorder();
  for (int t; block.fault.empty() && (t = NextThread()) >= 0;) {
    const auto n = static_cast<unsigned>(t);
    threadIdx = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
    block.current = t;
    block.threads[t].fiber->Enter();
  }
  if (block.fault.empty() && block.alive != 0) block.fault = Deadlock();
}

}  // namespace

// ---- what kernels call --------------------------------------------------------------------------

unsigned Lane() { return static_cast<unsigned>(block.current % 32); }

void* DynamicSharedMemory() { return block.shared.get(); }

void SetSeed(uint64_t seed) { block.seed = seed, block.drawn = 0; }

void Fault(const char* what) {
  block.fault = what;
  Fiber::Leave();
  std::abort();  // the launch is over and enters no thread again
}

void MeetWarp(unsigned mask, void* own, WarpFn fn, const char* place) {
  const int t = block.current;
  if ((mask & BitOf(t)) == 0) Fault("a thread's own lane is not in the mask it gives");
  Thread& self = block.threads[t];
  self.mask = mask, self.own = own, self.fn = fn, self.place = place;
  WarpOf(t).ready &= ~BitOf(t);
  WarpOf(t).at_warp |= BitOf(t);
  TryWarp(t);
  Fiber::Leave();
}

int MeetBlock(int own) {
  const int t = block.current;
  WarpOf(t).ready &= ~BitOf(t);
  WarpOf(t).at_block |= BitOf(t);
  block.sum += own;
  ++block.arrived;
  TryBlock();
  Fiber::Leave();
  return block.last_sum;
}

unsigned Ballot(unsigned mask, bool own, const char* place) {
  unsigned votes = own;
  const auto vote = [](void* const(&lanes)[32]) {
    unsigned all = 0;
    for (int i = 0; i < 32; ++i)
      if (lanes[i] != nullptr) all |= *static_cast<unsigned*>(lanes[i]) << i;
    for (void* lane : lanes)
      if (lane != nullptr) *static_cast<unsigned*>(lane) = all;
  };
  MeetWarp(mask, &votes, vote, place);
  return votes;
}

void CopyAsync16(void* shared, const void* global, bool valid) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(global) % 16 != 0)
    Fault("an asynchronous copy is not aligned to 16 bytes");
  Thread& self = block.threads[block.current];
  std::memset(shared, 0xFF, 16);  // until it has been waited for
  self.copies.push_back({shared, global, valid, self.group});
}

void CopyAsyncCommit() { ++block.threads[block.current].group; }

void CopyAsyncWait(int groups) {
  Thread& self = block.threads[block.current];
  std::erase_if(self.copies, [&](const Copy& copy) {
    if (copy.group >= self.group - groups) return false;
    if (copy.valid) std::memcpy(copy.to, copy.from, 16);
    if (!copy.valid) std::memset(copy.to, 0, 16);
    return true;
  });
}

std::string RunGrid(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  Prepare(config);
  block.kernel = &kernel;
  block.fault.clear();
  const uint64_t blocks = uint64_t{gridDim.x} * gridDim.y * gridDim.z,
                 first = Draw(static_cast<unsigned>(std::min<uint64_t>(blocks, 1u << 30)));
  for (uint64_t i = 0; i < blocks && block.fault.empty(); ++i)
    RunBlock((first + i) % blocks, config.dynamicSmemBytes);
  if (block.fault.empty()) return {};
  block.threads.clear();  // with what their stacks hold
  return block.fault + " in block (" + std::to_string(blockIdx.x) + ", " +
         std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + ')';
}

}  // namespace mlf::emulated
