// Where the buffers of a plan lie. Counterpart: buffer_layout.h.
#include "plan/buffer_layout.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>

#include "base/interrupt.h"

namespace mlf {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kMaxBytes = int64_t{1} << 60;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t End(const BufferLife& life) { return life.offset + Aligned(life.bytes); }

/// The offset of the smallest gap of at least `bytes` between buffers that stand by offset.
int64_t FindGap(const std::vector<BufferLife*>& alive, int64_t bytes) {
  int64_t begin = 0, best = -1, best_bytes = 0;
  for (const BufferLife* other : alive) {
    const int64_t gap = other->offset - begin;
    if (gap >= bytes && (best < 0 || gap < best_bytes)) {
      best = begin;
      best_bytes = gap;
    }
    begin = std::max(begin, End(*other));
  }
  return best < 0 ? begin : best;
}

}  // namespace

int64_t PlaceBuffers(std::span<BufferLife> lives) {
  std::vector<BufferLife*> alive;  // by offset
  int64_t total = 0;
  InterruptPoller poller;
  for (BufferLife& life : lives) {
    poller.Poll();
    if (life.bytes > kMaxBytes)
      TVM_FFI_THROW(ValueError) << "plan: a buffer has " << life.bytes
                                << " bytes, which is more than any memory";
    std::erase_if(alive, [&](const BufferLife* other) { return other->last < life.first; });
    life.offset = FindGap(alive, Aligned(life.bytes));
    const auto after = std::find_if(alive.begin(), alive.end(), [&](const BufferLife* other) {
      return other->offset > life.offset;
    });
    alive.insert(after, &life);
    total = std::max(total, End(life));
    if (total > kMaxBytes)
      TVM_FFI_THROW(ValueError) << "plan: the buffers have " << total
                                << " bytes, which is more than any memory";
  }
  return total;
}

}  // namespace mlf
