// Attention over plain tensors and over a paged KV cache, and writing to the cache. Counterparts:
// attention.cc, paged_attention.cc, kv_append.cc, attention_simd.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// Entries per page. A multiple of the widest SIMD vector of floats.
inline constexpr int64_t kPageSize = 32;

/// out[i, h, :] = sum_j softmax_j(s_ij) v[j, h / (heads / kv_heads), :] with s_ij = scale * q[i, h,
/// :] · k[j, …, :], and soft_cap * tanh(s_ij / soft_cap) instead where soft_cap > 0, over the keys
/// j that query i sees; zero where it sees none. q, out [queries, heads, head_dim], k and v [keys,
/// kv_heads, head_dim], float32, float16 or bfloat16, all alike; out may be q. cu_q and cu_k int32
/// [sequences + 1] cut queries and keys into sequences (both undefined: one sequence). In a
/// sequence of n queries and m keys, query i stands at position p = m − n + i; it sees the keys j
/// <= p (causal) or all, of them |p − j| < window where window > 0. Keys are gathered 32 at a time
/// with running maximum and sum (Milakov, Gimelshein, arXiv:1805.02867), 1024 at a time into one
/// result (on CUDA as attention_launch.h cuts them): a row depends on its sequence alone.
using AttentionFn = void(TensorView out, TensorView q, TensorView k, TensorView v, TensorView cu_q,
                         TensorView cu_k, double scale, bool causal, int64_t window,
                         double soft_cap);
inline Kernel<AttentionFn> attention_kernel{"attention"};

/// Pages of one layer, float32, float16 or bfloat16:
///   k_pages [pages, kv_heads, head_dim, kPageSize]: lanes of a score run over entries
///   v_pages [pages, kv_heads, kPageSize, head_dim]: lanes of an output run over head_dim
/// page_positions int32 [pages, kPageSize] is shared by all layers: the position of each entry, −1
/// where empty.

/// The same over the entries e of the pages that row token_row[t] of block_table lists: token t
/// sees those with 0 <= position_e <= p = token_position[t], of them p − position_e < window or
/// position_e < sinks[t] where window > 0; windows[t], where given, is t's own window. q, out
/// [tokens, heads, head_dim] of any float dtype, heads a multiple of kv_heads; block_table int32
/// [rows, max_pages], −1 ends a row; token_row, token_position, windows, sinks int32 [tokens], the
/// last two undefined or >= 0. One pass over the pages in table order: the result depends on the
/// pages' contents alone, and a page of which t sees nothing may as well not be there (on CUDA to
/// the bit where positions ascend over the pages).
using PagedAttentionFn = void(TensorView out, TensorView q, TensorView k_pages, TensorView v_pages,
                              TensorView page_positions, TensorView block_table,
                              TensorView token_row, TensorView token_position, TensorView windows,
                              TensorView sinks, double scale, int64_t window, double soft_cap);
inline Kernel<PagedAttentionFn> paged_attention_kernel{"paged_attention"};

/// Writes row t of k, v [tokens, kv_heads, head_dim] of any float dtype to entry slots[t] = page *
/// kPageSize + offset (int64); no two alike.
using KvAppendFn = void(TensorView k_pages, TensorView v_pages, TensorView k, TensorView v,
                        TensorView slots);
inline Kernel<KvAppendFn> kv_append_kernel{"kv_append"};

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
