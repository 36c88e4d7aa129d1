// Attention over a paged KV cache. Counterparts: attention.cc, attention_simd.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// Entries per page. A multiple of the widest SIMD vector of floats.
inline constexpr int64_t kPageSize = 32;

/// Pages of one layer, float32 or float16:
///   k_pages [pages, kv_heads, head_dim, kPageSize]: lanes of a score run over entries
///   v_pages [pages, kv_heads, kPageSize, head_dim]: lanes of an output run over head_dim
/// page_positions int32 [pages, kPageSize] is shared by all layers: the position of each entry, −1
/// where empty.

/// Writes row t of k, v float32 [tokens, kv_heads, head_dim] to entry slots[t] = page * kPageSize +
/// offset (int64).
using KvAppendFn = void(TensorView k_pages, TensorView v_pages, TensorView k, TensorView v,
                        TensorView slots);
inline Kernel<KvAppendFn> kv_append_kernel{"kv_append"};

/// out[t, h, :] = sum_e softmax_e(scale * q[t, h, :] · k_e) v_e over the entries e of the pages
/// that row token_row[t] of block_table lists, with 0 <= position_e <= token_position[t]; zero
/// where no entry is visible. q, out float32 [tokens, heads, head_dim], heads a multiple of
/// kv_heads; block_table int32 [rows, max_pages], −1 ends a row; token_row, token_position int32
/// [tokens]. One pass over the pages in table order with running maximum and sum (Milakov,
/// Gimelshein, arXiv:1805.02867): the result depends on the pages' contents alone.
using PagedAttentionFn = void(TensorView out, TensorView q, TensorView k_pages, TensorView v_pages,
                              TensorView page_positions, TensorView block_table,
                              TensorView token_row, TensorView token_position, double scale);
inline Kernel<PagedAttentionFn> paged_attention_kernel{"paged_attention"};

/// Turns k of entries (int64 [n], page * kPageSize + offset) by one angle per pair: cos_sin float32
/// [1, 2, rotary_dims / 2] as rope_angles writes it for the distance; pairs as in rope.h. For
/// shifting positions inside the cache.
using KvRotateFn = void(TensorView k_pages, TensorView entries, TensorView cos_sin,
                        bool interleaved);
inline Kernel<KvRotateFn> kv_rotate_kernel{"kv_rotate"};

/// Copies page src to page dst, in k_pages and v_pages.
using KvCopyPageFn = void(TensorView k_pages, TensorView v_pages, int64_t src, int64_t dst);
inline Kernel<KvCopyPageFn> kv_copy_page_kernel{"kv_copy_page"};

}  // namespace mlf
