// Attention of a block of queries with one key/value head, at every CPU level. Counterparts:
// attention_simd.cc, attention.cc.
#pragma once
#include <cstdint>

#include "base/half.h"
#include "base/simd_fn.h"

namespace mlf {

/// Memory of one block; rows = tokens * group, dim = head_dim rounded up to 16.
struct AttentionScratch {
  float* q;           // [rows, head_dim], scaled
  float* acc;         // [rows, dim]
  float* max;         // [rows]
  float* sum;         // [rows, 16]: one running sum per lane, added up at the end
  float* k;           // [head_dim, kPageSize]
  float* v;           // [kPageSize, dim]
  int32_t* position;  // [rows]
  uint32_t* visible;  // [rows], one bit per entry of the page at hand
};

/// Consecutive tokens of one row of the block table, and the heads that share a key/value head.
/// Token t's head g is at q + t * token_stride + g * head_dim, and so in out.
struct AttentionBlock {
  float* out;
  const float* q;
  int64_t tokens, group, head_dim, token_stride;
  const void* k_pages;  // this head's part of page 0, float or F16
  const void* v_pages;
  int64_t page_stride;       // elements from page to page
  const int32_t* pages;      // [n_pages]
  const int32_t* positions;  // [all pages, kPageSize]
  int64_t n_pages;
  const int32_t* token_positions;  // [tokens]
  float scale;
  AttentionScratch scratch;
};

MLF_SIMD_FN(attention_block_f32, AttentionBlockF32, void(const AttentionBlock& block))
MLF_SIMD_FN(attention_block_f16, AttentionBlockF16, void(const AttentionBlock& block))

/// out[n] = x[n], rounded to nearest even.
MLF_SIMD_FN(narrow_to_f16, NarrowToF16, void(F16* out, const float* x, int64_t n))

/// out[n] = x[n].
MLF_SIMD_FN(widen_f16, WidenF16, void(float* out, const F16* x, int64_t n))

}  // namespace mlf
