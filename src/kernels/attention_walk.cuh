// The keys and values that attention on CUDA walks over, 32 at a time: pages of a cache or plain
// rows, behind one interface. Counterparts: attention_mma.cuh, attention_plain.cuh.
#pragma once
#include "kernels/attention.h"
#include "kernels/attention_launch.h"
#include "kernels/cuda_mma.cuh"
#include "kernels/cuda_vector.cuh"

namespace mlf {

inline constexpr int kTileKeys = static_cast<int>(kPageSize);
static_assert(kTileKeys == kWarp, "a lane looks at one entry of a page");

/// A row sees the entries whose position is in [first, last], first >= 0, or in [0, sinks).
struct RowView {
  int first, last, sinks;
  __device__ __forceinline__ bool Sees(int position) const {
    return (position >= first && position <= last) ||
           static_cast<unsigned>(position) < static_cast<unsigned>(sinks);
  }
};

inline constexpr int kNoPosition = 0x7FFFFFFF;
__device__ __forceinline__ RowView SeesNothing() { return {kNoPosition, -1, 0}; }

__device__ __forceinline__ RowView ViewOf(int64_t position, int64_t window, int64_t last,
                                          int64_t sinks) {
  if (last < 0) return SeesNothing();
  const int64_t first = window <= 0 ? 0 : max(int64_t{0}, position - window + 1);
  return {static_cast<int>(min(first, int64_t{kNoPosition})), static_cast<int>(last),
          static_cast<int>(max(int64_t{0}, min(sinks, first)))};
}

/// Part of the keys or values of 32 entries: `rows` rows of `columns` elements, `stride` apart.
/// Rows from `valid` on are no memory of ours and count as zeros.
template <typename T>
struct KeyTile {
  const T* data;
  int64_t stride;
  int rows, columns, valid;
};

/// Begins to copy a tile to shared memory; kColumns >= tile.columns is a power of two.
template <int kColumns, typename T>
__device__ __forceinline__ void CopyTile(T* to, int to_stride, const KeyTile<T>& tile,
                                         bool vectors) {
  if (vectors) {
    constexpr int kLanes = kVectorLanes<T>, kVectors = kColumns / kLanes;
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < tile.rows * kVectors;
         i += static_cast<int>(blockDim.x)) {
      const int row = i / kVectors, column = i % kVectors * kLanes;
      if (column >= tile.columns) continue;
      const bool valid = row < tile.valid;
      const T* from = valid ? tile.data + row * tile.stride + column : tile.data;
      CopyAsync16(to + row * to_stride + column, from, valid);
    }
    return;
  }
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < tile.rows * kColumns;
       i += static_cast<int>(blockDim.x)) {
    const int row = i / kColumns, column = i % kColumns;
    if (column >= tile.columns) continue;
    to[row * to_stride + column] = row < tile.valid ? tile.data[row * tile.stride + column] : T{};
  }
}

/// A page as a lane of the cursor sees it: negative ends the walk.
struct PageLook {
  int page;
  int first_position;  // of its first entry that is not empty; negative where all are
};

// ---- pages of a cache ---------------------------------------------------------------------------

/// Tables and positions may hold anything: a page or a row that is not there is not read, its
/// entries count as empty.
template <typename T>
struct PagedSource {
  static constexpr bool kTransposed = true;  // keys lie as [head_dim, kPageSize]
  using Element = T;
  struct Run {
    const int32_t* table;
    int slots;
  };

  const T *k, *v;
  const int32_t *positions, *table, *token_row, *token_position, *windows, *sinks;
  int64_t window;
  int pages, table_rows, max_pages, kv_heads, head_dim;
  bool k_vectors, v_vectors, position_vectors;  // whether 16-byte copies may be used

  __device__ __forceinline__ int SequenceOf(int64_t token) const { return token_row[token]; }
  __device__ __forceinline__ Run RunOf(int64_t token) const {
    const int row = token_row[token];
    if (row < 0 || row >= table_rows) return {table, 0};
    return {table + int64_t{row} * max_pages, max_pages};
  }
  __device__ __forceinline__ RowView View(int64_t token) const {
    const int position = token_position[token];
    return ViewOf(position, windows == nullptr ? window : windows[token], position,
                  sinks == nullptr ? 0 : sinks[token]);
  }
  __device__ __forceinline__ int FirstSlot(const Run&, const RowView&) const { return 0; }
  __device__ __forceinline__ PageLook Look(const Run& run, const RowView&, int slot) const {
    if (slot >= run.slots) return {-1, -1};
    const int page = __ldg(run.table + slot);
    if (page < 0 || page >= pages) return {page, -1};
    const int32_t* p = positions + int64_t{page} * kPageSize;
    int first = -1;
#pragma unroll 1
    for (int e = 0; e < kTileKeys && first < 0; ++e) first = __ldg(p + e);
    return {page, first};
  }
  __device__ __forceinline__ bool AnySeen(int page, const RowView& any) const {
    const int32_t* p = positions + int64_t{page} * kPageSize;
    bool seen = false;  // mostly from the first entry on
#pragma unroll 1
    for (int e = 0; e < kTileKeys && !seen; e += 4) {
      CudaVector<int32_t, 4> four;
      if (position_vectors) {
        four = LoadConstVector(reinterpret_cast<const CudaVector<int32_t, 4>*>(p + e));
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) four.lane[i] = __ldg(p + e + i);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) seen |= any.Sees(four.lane[i]);
    }
    return seen;
  }
  __device__ __forceinline__ const T* HeadOf(const T* data, int page, int head) const {
    return data + (int64_t{page} * kv_heads + head) * head_dim * kPageSize;
  }
  /// Dimensions [dim, dim + n) of the keys of a page.
  __device__ __forceinline__ KeyTile<T> Keys(const Run&, int page, int head, int dim, int n) const {
    return {HeadOf(k, page, head) + dim * kTileKeys, kPageSize, n, kTileKeys, n};
  }
  __device__ __forceinline__ KeyTile<T> Values(const Run&, int page, int head, int dim,
                                               int n) const {
    return {HeadOf(v, page, head) + dim, head_dim, kTileKeys, n, kTileKeys};
  }
  __device__ __forceinline__ void CopyPositions(int32_t* to, int page) const {
    const int32_t* from = positions + int64_t{page} * kPageSize;
    const int thread = static_cast<int>(threadIdx.x);
    if (position_vectors) {
      if (thread < kTileKeys / 4) CopyAsync16(to + 4 * thread, from + 4 * thread, true);
    } else if (thread < kTileKeys) {
      to[thread] = from[thread];
    }
  }
};

// ---- plain rows ---------------------------------------------------------------------------------

/// Keys [keys, kv_heads, head_dim], cut into sequences by cu_k as queries are by cu_q; a key's
/// position is its index in its sequence. Bounds that are no bounds are moved into the arrays.
template <typename T>
struct RowSource {
  static constexpr bool kTransposed = false;  // keys lie as [32, head_dim]
  using Element = T;
  struct Run {
    int64_t first_key;
    int keys;
  };

  const T *k, *v;
  const int32_t *cu_q, *cu_k;
  int64_t queries, keys, window;
  int sequences, kv_heads, head_dim;
  bool causal, k_vectors, v_vectors;

  __device__ __forceinline__ int64_t Bound(const int32_t* cu, int i, int64_t rows) const {
    return max(int64_t{0}, min(int64_t{cu[i]}, rows));
  }
  /// The last sequence that begins at `token` or before it.
  __device__ __forceinline__ int SequenceOf(int64_t token) const {
    int low = 0, high = sequences;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (cu_q[middle] <= token ? low : high) = middle;
    }
    return low;
  }
  __device__ __forceinline__ Run RunOf(int64_t token) const {
    if (cu_q == nullptr) return {0, static_cast<int>(keys)};
    const int s = SequenceOf(token);
    const int64_t first = Bound(cu_k, s, keys), end = Bound(cu_k, s + 1, keys);
    return {first, static_cast<int>(max(int64_t{0}, end - first))};
  }
  __device__ __forceinline__ RowView View(int64_t token) const {
    const int s = SequenceOf(token);
    const int64_t first = cu_q == nullptr ? 0 : Bound(cu_q, s, queries),
                  end = cu_q == nullptr ? queries : Bound(cu_q, s + 1, queries),
                  n_keys = RunOf(token).keys, position = n_keys - (end - first) + token - first,
                  last = causal        ? position
                         : window <= 0 ? n_keys - 1
                                       : min(n_keys - 1, position + window - 1);
    return ViewOf(position, window, min(last, n_keys - 1), 0);
  }
  __device__ __forceinline__ int FirstSlot(const Run&, const RowView& any) const {
    return any.first / kTileKeys;
  }
  __device__ __forceinline__ PageLook Look(const Run&, const RowView& any, int slot) const {
    const int64_t first = int64_t{slot} * kTileKeys;
    if (first > any.last) return {-1, -1};
    return {slot, static_cast<int>(first)};
  }
  __device__ __forceinline__ bool AnySeen(int, const RowView&) const { return true; }
  __device__ __forceinline__ KeyTile<T> Rows(const T* data, const Run& run, int slot, int head,
                                             int dim, int n) const {
    const int64_t stride = int64_t{kv_heads} * head_dim, begin = int64_t{slot} * kTileKeys;
    return {data + (run.first_key + begin) * stride + int64_t{head} * head_dim + dim, stride,
            kTileKeys, n, static_cast<int>(min(int64_t{kTileKeys}, run.keys - begin))};
  }
  __device__ __forceinline__ KeyTile<T> Keys(const Run& run, int slot, int head, int dim,
                                             int n) const {
    return Rows(k, run, slot, head, dim, n);
  }
  __device__ __forceinline__ KeyTile<T> Values(const Run& run, int slot, int head, int dim,
                                               int n) const {
    return Rows(v, run, slot, head, dim, n);
  }
  __device__ __forceinline__ void CopyPositions(int32_t* to, int slot) const {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < kTileKeys) to[thread] = slot * kTileKeys + thread;
  }
};

// ---- the walk -----------------------------------------------------------------------------------

/// What a walk keeps in shared memory, for registers are few: one for each warp.
struct WalkMemory {
  RowView any;
  int page[kWarp], part[kWarp];  // of the pages that were looked at together
};

/// Walks over the pages of a run that some row of a block may see, of the segments that are dealt
/// to this split. Every warp of a block walks for itself and finds the same.
template <typename Source>
class KeyCursor {
 public:
  /// `any` sees whatever some row of the block sees.
  __device__ __forceinline__ KeyCursor(const Source& source, const typename Source::Run& run,
                                       const RowView& any, int splits, WalkMemory& memory)
      : source_(source),
        run_(run),
        memory_(memory),
        splits_(splits),
        slot_(source.FirstSlot(run, any)),
        ended_(any.last < any.first && any.sinks <= 0) {
    __syncwarp();  // an earlier walk may still be read
    if (threadIdx.x % kWarp == 0) memory.any = any;
    __syncwarp();
  }

  /// The next page and the part of the row's keys it belongs to: parts are segments, counted as
  /// they come. A segment that begins with lower positions than the one before counts as its
  /// continuation.
  __device__ __forceinline__ bool Next(int& page, int& part) {
    while (found_ == 0) {
      if (ended_) return false;
      Look();
    }
    const int lane = __ffs(static_cast<int>(found_)) - 1;
    found_ &= found_ - 1;
    page = memory_.page[lane];
    part = memory_.part[lane];
    return true;
  }

 private:
  /// At the next 32 pages, one per lane.
  __device__ __forceinline__ void Look() {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const RowView any = memory_.any;
    const PageLook look = source_.Look(run_, any, slot_ + lane);
    const unsigned ends = __ballot_sync(kFullWarp, look.page < 0);
    const bool inside = ends == 0 || lane < __ffs(static_cast<int>(ends)) - 1;
    int segment = inside && look.first_position >= 0 ? SegmentOf(look.first_position) : 0;
    segment = max(segment, segment_);
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int before = __shfl_up_sync(kFullWarp, segment, offset);
      if (lane >= offset) segment = max(segment, before);
    }
    const int before = __shfl_up_sync(kFullWarp, segment, 1);
    const unsigned news = __ballot_sync(kFullWarp, segment != (lane == 0 ? segment_ : before));
    const int part = parts_ + __popc(news & (kFullWarp >> (kWarp - 1 - lane)));
    const bool seen = inside && look.first_position >= 0 &&
                      part % splits_ == static_cast<int>(blockIdx.z) &&
                      source_.AnySeen(look.page, any);
    __syncwarp();  // the last pages have been read
    memory_.page[lane] = look.page;
    memory_.part[lane] = part;
    __syncwarp();
    found_ = __ballot_sync(kFullWarp, seen);
    segment_ = __shfl_sync(kFullWarp, segment, kWarp - 1);
    parts_ += __popc(news);
    slot_ += kWarp;
    ended_ = ends != 0;
  }

  const Source& source_;
  typename Source::Run run_;
  WalkMemory& memory_;
  int splits_, slot_;
  int segment_ = -1, parts_ = -1;  // of the last page
  unsigned found_ = 0;
  bool ended_;
};

/// How many of the n tokens from `begin` on have the same keys as the first.
template <typename Source>
__device__ __forceinline__ int RunLength(const Source& source, int64_t begin, int n) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, sequence = source.SequenceOf(begin);
#pragma unroll 1
  for (int i = 1; i < n; i += kWarp) {
    const bool ends = i + lane >= n || source.SequenceOf(begin + i + lane) != sequence;
    const unsigned all = __ballot_sync(kFullWarp, ends);
    if (all != 0) return i + __ffs(static_cast<int>(all)) - 1;
  }
  return n;
}

}  // namespace mlf
