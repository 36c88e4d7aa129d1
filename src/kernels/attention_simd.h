// Attention of a block of queries with one key/value head, at every CPU level. Counterparts:
// attention_simd.cc, attention_block.h.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/simd_fn.h"

namespace mlf {

/// What a row has gathered: the sum of weights exp(score − max) and of weight times value. dim =
/// head_dim rounded up to 16.
struct AttentionState {
  float* acc;  // [rows, dim]
  float* max;  // [rows]
  float* sum;  // [rows, 16]: one running sum per lane, added up at the end
};

/// Memory of one block; rows = tokens * group.
struct AttentionScratch {
  float* q;            // [rows, head_dim], scaled
  float* k;            // [head_dim, kPageSize]
  float* v;            // [kPageSize, dim]
  int32_t* first;      // [rows]: a row sees the entries whose position
  int32_t* last;       // [rows]  is in [first, last]; first >= 0, none where last < first ...
  int32_t* sinks;      // [rows]  ... and those whose position is in [0, sinks); sinks >= 0
  uint32_t* visible;   // [rows], one bit per entry of the 32 keys at hand
  int32_t* positions;  // [kPageSize]
  AttentionState state;
};

/// Queries of consecutive tokens, for the `group` heads that share a key/value head: row = token *
/// group + head. Rows of one token see the same entries.
struct AttentionBlock {
  int64_t tokens, group, head_dim;
  float soft_cap;  // 0: none
  AttentionScratch scratch;
};

/// The keys and values of one head in a paged cache, float, F16 or BF16.
struct PagedKeys {
  const void* k_pages;  // this head's part of page 0
  const void* v_pages;
  int64_t page_stride;       // elements from page to page
  const int32_t* pages;      // [n_pages]
  const int32_t* positions;  // [all pages, kPageSize]
  int64_t n_pages;
};

/// The keys [begin, end) of neighbouring heads in plain rows; a key's index is its position, begin
/// a multiple of kPageSize.
struct RowKeys {
  const void* k;  // key 0 of the first head; the next head follows head_dim elements later
  const void* v;
  int64_t heads;
  int64_t stride;  // elements from key to key
  int64_t begin, end;
};

// Each clears the state and gathers what the rows see of the keys.
MLF_SIMD_FN(attend_pages_f32, AttendPagesF32, void(const AttentionBlock&, const PagedKeys&))
MLF_SIMD_FN(attend_pages_f16, AttendPagesF16, void(const AttentionBlock&, const PagedKeys&))
MLF_SIMD_FN(attend_pages_bf16, AttendPagesBF16, void(const AttentionBlock&, const PagedKeys&))
MLF_SIMD_FN(attend_rows_f32, AttendRowsF32, void(const AttentionBlock&, const RowKeys&))
MLF_SIMD_FN(attend_rows_f16, AttendRowsF16, void(const AttentionBlock&, const RowKeys&))
MLF_SIMD_FN(attend_rows_bf16, AttendRowsBF16, void(const AttentionBlock&, const RowKeys&))

/// Adds `part` to `state`, as if all had been gathered in one.
MLF_SIMD_FN(merge_attention, MergeAttention,
            void(const AttentionState& state, const AttentionState& part, int64_t rows,
                 int64_t head_dim, float soft_cap))

/// Divides acc by the sum of the weights; zero where nothing was visible.
MLF_SIMD_FN(finish_attention, FinishAttention,
            void(const AttentionState& state, int64_t rows, int64_t head_dim))

}  // namespace mlf
