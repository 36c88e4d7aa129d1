// Memory and tokens of a block of queries, for the attention kernels of the CPU. Counterparts:
// attention.cc, paged_attention.cc, attention_simd.h.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <memory>
#include <new>
#include <vector>

#include "base/array.h"
#include "base/thread_pool.h"
#include "kernels/attention_simd.h"
#include "kernels/convert.h"

namespace mlf {

/// Some arrays of floats in one piece of memory, each on its own cache lines.
class FloatArrays {
 public:
  FloatArrays() = default;
  FloatArrays(std::initializer_list<int64_t> sizes) {
    int64_t total = 0;
    for (int64_t n : sizes) {
      begin_.push_back(total);
      total += Lines(n);
    }
    memory_.reset(static_cast<float*>(::operator new(total * sizeof(float), kAlign)));
  }
  float* operator[](int i) const { return memory_.get() + begin_[i]; }

  static int64_t Lines(int64_t n) { return (n + kLine - 1) / kLine * kLine; }

 private:
  static constexpr int64_t kLine = 16;  // floats
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlign); }
  };

  std::unique_ptr<float, Free> memory_;
  std::vector<int64_t> begin_;
};

class StateMemory {
 public:
  StateMemory(int64_t rows, int64_t head_dim)
      : arrays_{rows * FloatArrays::Lines(head_dim), rows, rows * 16} {}
  AttentionState state() const { return {arrays_[0], arrays_[1], arrays_[2]}; }

 private:
  FloatArrays arrays_;
};

/// Tokens [first, first + tokens), and of each `kv_heads` times `group` query heads from `head` on,
/// one group for each key/value head.
struct QueryBlock {
  int64_t first, tokens, head, group, kv_heads;
  int64_t rows() const { return kv_heads * tokens * group; }

  /// Calls fn(element of q or out [tokens, heads, head_dim], row of the block) for each run of
  /// `group` rows that are neighbours in both.
  template <typename Fn>
  void ForGroups(const TensorView& q, Fn fn) const {
    for (int64_t i = 0; i < kv_heads * tokens; ++i) {
      const int64_t h = head + i / tokens * group, t = first + i % tokens;
      fn((t * q.size(1) + h) * q.size(2), i * group);
    }
  }
};

/// A block's scratch around a state that lives elsewhere.
class BlockMemory {
 public:
  BlockMemory(const QueryBlock& block, int64_t head_dim, float soft_cap,
              const AttentionState& state)
      : arrays_{block.rows() * head_dim,           head_dim * 32,
                32 * FloatArrays::Lines(head_dim), block.tokens * block.group,
                block.tokens * block.group,        block.tokens * block.group,
                block.tokens * block.group,        32},
        block_{.tokens = block.tokens,
               .group = block.group,
               .head_dim = head_dim,
               .soft_cap = soft_cap,
               .scratch = {.q = arrays_[0],
                           .k = arrays_[1],
                           .v = arrays_[2],
                           .first = reinterpret_cast<int32_t*>(arrays_[3]),
                           .last = reinterpret_cast<int32_t*>(arrays_[4]),
                           .sinks = reinterpret_cast<int32_t*>(arrays_[5]),
                           .visible = reinterpret_cast<uint32_t*>(arrays_[6]),
                           .positions = reinterpret_cast<int32_t*>(arrays_[7]),
                           .state = state}} {}

  const AttentionBlock& block() const { return block_; }

  /// Token t of the block sees positions [first, last] and [0, sinks).
  void See(int64_t t, int32_t first, int32_t last, int32_t sinks = 0) {
    for (int64_t row = t * block_.group; row < (t + 1) * block_.group; ++row) {
      block_.scratch.first[row] = first;
      block_.scratch.last[row] = last;
      block_.scratch.sinks[row] = sinks;
    }
  }

 private:
  FloatArrays arrays_;
  AttentionBlock block_;
};

/// Takes the block's queries times `scale` out of q [tokens, heads, head_dim].
template <typename T>
void LoadQueries(const AttentionBlock& b, const QueryBlock& block, const TensorView& q,
                 float scale) {
  block.ForGroups(q, [&](int64_t element, int64_t row) {
    float* to = b.scratch.q + row * b.head_dim;
    Convert(to, Data<const T>(q) + element, block.group * b.head_dim);
    for (int64_t i = 0; i < block.group * b.head_dim; ++i) to[i] *= scale;
  });
}

/// Writes the block's finished state to out [tokens, heads, head_dim].
template <typename T>
void StoreOutputs(const AttentionState& state, const QueryBlock& block, const TensorView& out) {
  const int64_t head_dim = out.size(2), dim = FloatArrays::Lines(head_dim);
  finish_attention(state, block.rows(), head_dim);
  block.ForGroups(out, [&](int64_t element, int64_t row) {
    for (int64_t g = 0; g < block.group; ++g) {
      Convert(Data<T>(out) + element + g * head_dim, state.acc + (row + g) * dim, head_dim);
    }
  });
}

/// Position at which a window that ends at `position` begins; 0 without a window.
inline int32_t WindowStart(int64_t position, int64_t window) {
  return window == 0 ? 0 : static_cast<int32_t>(std::max<int64_t>(0, position - window + 1));
}

/// Into how many pieces the heads of a group are cut where there are fewer `items` than threads.
/// Every head is a computation of its own, so that the cut makes no difference to any bit.
inline int64_t GroupPieces(int64_t group, int64_t items) {
  return std::clamp<int64_t>((ThreadCount() + items - 1) / items, 1, group);
}

/// Whether so many multiplications are worth the wake-up of another thread.
inline bool WorthThreads(int64_t multiplies) {
  return multiplies >= 400'000;  // 8 us with AVX-512
}

}  // namespace mlf
