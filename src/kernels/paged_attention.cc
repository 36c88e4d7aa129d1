// Attention over a paged KV cache: checks, CPU, registration. Counterparts: attention.h,
// attention_block.h, attention_simd.cc.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/op.h"
#include "kernels/attention.h"
#include "kernels/attention_block.h"
#include "kernels/attention_options.h"
#include "kernels/row_parameters.h"

namespace mlf {
namespace {

static_assert(kPageSize == 32, "attention_simd.cc holds the entries of a page in 32 bits");

constexpr int64_t kBlockRows = 32;  // queries that share the loads of a page; scratch stays in L2

template <typename T>
constexpr auto& kAttendPages = attend_pages_f32;
template <>
constexpr auto& kAttendPages<F16> = attend_pages_f16;
template <>
constexpr auto& kAttendPages<BF16> = attend_pages_bf16;

struct TokenRun {
  int64_t first, tokens;
  const int32_t* pages;
  int64_t n_pages;
};

/// Cuts the tokens into runs of one table row, of at most `most` tokens.
std::vector<TokenRun> CutIntoRuns(const TensorView& block_table, const TensorView& token_row,
                                  int64_t most) {
  const int64_t tokens = token_row.size(0), max_pages = block_table.size(1);
  const int32_t *table = Data<const int32_t>(block_table), *row = Data<const int32_t>(token_row);
  std::vector<TokenRun> runs;
  for (int64_t t = 0; t < tokens;) {
    int64_t end = t + 1;
    while (end < tokens && end < t + most && row[end] == row[t]) ++end;
    const int32_t* pages = table + row[t] * max_pages;
    const int32_t* last = std::find_if(pages, pages + max_pages, [](int32_t p) { return p < 0; });
    runs.push_back({t, end - t, pages, last - pages});
    t = end;
  }
  return runs;
}

/// The arguments of one call, dtypes as types.
template <typename Q, typename T>
struct PagedCall {
  TensorView out, q, k_pages, v_pages, page_positions, token_position, windows, sinks;
  float scale, soft_cap;
  int64_t window;

  /// Token `t` of a block is `token` of the call.
  void See(BlockMemory& memory, int64_t t, int64_t token) const {
    const int32_t position = Data<const int32_t>(token_position)[token],
                  *own_window = Data<const int32_t>(windows),
                  *own_sinks = Data<const int32_t>(sinks);
    const int32_t first = WindowStart(position, own_window == nullptr ? window : own_window[token]);
    // Sinks inside the window are seen anyway.
    const int32_t last_sink = own_sinks == nullptr ? 0 : std::min(own_sinks[token], first);
    memory.See(t, first, position, last_sink);
  }

  /// Query heads [head, head + heads) of one key/value head.
  void Attend(const TokenRun& run, int64_t head, int64_t heads) const {
    const int64_t head_dim = q.size(2), kv_heads = k_pages.size(1),
                  head_size = head_dim * kPageSize, kv_head = head / (q.size(1) / kv_heads);
    const QueryBlock query{run.first, run.tokens, head, heads, 1};
    const StateMemory state(query.rows(), head_dim);
    BlockMemory memory(query, head_dim, soft_cap, state.state());
    for (int64_t t = 0; t < run.tokens; ++t) See(memory, t, run.first + t);
    LoadQueries<Q>(memory.block(), query, q, scale);
    kAttendPages<T>(memory.block(), {.k_pages = Data<const T>(k_pages) + kv_head * head_size,
                                     .v_pages = Data<const T>(v_pages) + kv_head * head_size,
                                     .page_stride = kv_heads * head_size,
                                     .pages = run.pages,
                                     .positions = Data<const int32_t>(page_positions),
                                     .n_pages = run.n_pages});
    StoreOutputs<Q>(state.state(), query, out);
  }
};

template <typename Q, typename T>
void Run(const PagedCall<Q, T>& call, TensorView block_table, TensorView token_row) {
  const int64_t heads = call.q.size(1), kv_heads = call.k_pages.size(1), group = heads / kv_heads,
                head_size = call.q.size(2) * kPageSize;
  const std::vector<TokenRun> runs =
      CutIntoRuns(block_table, token_row, std::max<int64_t>(1, kBlockRows / group));
  const auto n_runs = static_cast<int64_t>(runs.size());
  int64_t multiplies = 0;
  for (const TokenRun& run : runs) multiplies += 2 * run.tokens * heads * run.n_pages * head_size;
  const int64_t pieces = GroupPieces(group, n_runs * kv_heads), per_run = kv_heads * pieces,
                items = n_runs * per_run;
  ParallelFor(items, WorthThreads(multiplies) ? 1 : items, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t piece = i % per_run, kv_head = piece / pieces, j = piece % pieces,
                    first = j * group / pieces, last = (j + 1) * group / pieces;
      call.Attend(runs[i / per_run], kv_head * group + first, last - first);
    }
  });
}

void PagedAttentionCpu(TensorView out, TensorView q, TensorView k_pages, TensorView v_pages,
                       TensorView page_positions, TensorView block_table, TensorView token_row,
                       TensorView token_position, TensorView windows, TensorView sinks,
                       double scale, int64_t window, double soft_cap) {
  if (out.numel() == 0) return;
  DispatchFloat(q.dtype(), [&]<typename Q>() {
    DispatchFloat(k_pages.dtype(), [&]<typename T>() {
      Run(PagedCall<Q, T>{out, q, k_pages, v_pages, page_positions, token_position, windows, sinks,
                          static_cast<float>(scale), static_cast<float>(soft_cap), window},
          block_table, token_row);
    });
  });
}

[[maybe_unused]] const bool kFilled = paged_attention_kernel.SetCpu(PagedAttentionCpu);

// ---- the op -------------------------------------------------------------------------------------

const Op kPagedAttention{
    "paged_attention",
    "(q: T['tokens heads head_dim', 'f32 f16 bf16'], "
    "k_pages: T['pages kv_heads head_dim 32', 'f32 f16 bf16'], "
    "v_pages: T['pages kv_heads 32 head_dim', 'like k_pages'], "
    "page_positions: T['pages 32', 'i32'], block_table: T['rows max_pages', 'i32'], "
    "token_row: T['tokens', 'i32'], token_position: T['tokens', 'i32'], "
    "windows: T['tokens', 'i32'] | None = None, sinks: T['tokens', 'i32'] | None = None, *, "
    "scale: float | None = None, window: int | None = None, soft_cap: float | None = None) "
    "-> T['tokens heads head_dim', 'may be q']",
    R"(Attention of tokens to the pages of a cache, prefill and decode in one call.

Token t sees the filled entries of the pages in row ``token_row[t]`` of the block table whose
position is at most ``token_position[t]``: ``softmax(scale * q @ k.T) @ v`` over them, accumulated in
float32; query head ``i`` reads key head ``i // (heads // kv_heads)``. A token that sees nothing gets
zeros. Tokens may be of any mix of sequences: a row's result does not depend on the others. It is
fastest where tokens of one sequence stand together. Pages are those of Kwon et al.,
arXiv:2309.06180; one pass over them with running maximum and sum is Milakov and Gimelshein's,
arXiv:1805.02867. IndexError where a row or a page lies outside its table.

On CUDA the weights of 16-bit pages are rounded to their dtype where q has it too, and the values in
tables are not checked: a row or page that is not there holds nothing. Every GPU takes a head_dim of
up to 2000; one that its shared memory has no room for is refused (NotImplementedError).

q: Queries, one row per token; heads is a multiple of kv_heads.
k_pages: Keys of each page, transposed, as kv_append writes them.
v_pages: Values of each page.
page_positions: Position in its sequence of each entry of a page; negative where empty.
block_table: Pages of each sequence in order; -1 ends a row that has fewer.
token_row: Row of the block table for each token.
token_position: Position of each token; it sees its own.
windows: A window for each token in place of ``window``; 0 means all before.
sinks: Token t sees the positions below ``sinks[t]`` too, of those before it, though they lie outside
    its window.
scale: Factor of the scores; None means 1 / sqrt(head_dim).
window: Sees position j only where ``token_position[t] - j < window``; None means all before.
soft_cap: c of ``c * tanh(score / c)``, which bounds the scaled scores; None means no bound.
)"};

void CheckIndices(const TensorView& block_table, const TensorView& token_row, int64_t pages) {
  const int64_t rows = block_table.size(0), max_pages = block_table.size(1),
                tokens = token_row.size(0);
  const int32_t *table = Data<const int32_t>(block_table), *row = Data<const int32_t>(token_row);
  for (int64_t t = 0; t < tokens; ++t) {
    if (row[t] >= 0 && row[t] < rows) continue;
    TVM_FFI_THROW(IndexError) << kPagedAttention.name() << ": token_row[" << t << "] is " << row[t]
                              << ", expected a row of block_table, which has " << rows;
  }
  for (int64_t i = 0; i < rows * max_pages; ++i) {
    if (table[i] >= -1 && table[i] < pages) continue;
    TVM_FFI_THROW(IndexError) << kPagedAttention.name() << ": block_table[" << i / max_pages << ", "
                              << i % max_pages << "] is " << table[i] << ", expected one of "
                              << pages << " pages, or -1 for none";
  }
}

/// A kernel takes an absent tensor as one without memory.
TensorView OrNone(const OptionalTensor& t, const ArrayView& none) {
  return t.has_value() ? *t : TensorView(none);
}

void PagedAttention(TensorView q, TensorView k_pages, TensorView v_pages, TensorView page_positions,
                    TensorView block_table, TensorView token_row, TensorView token_position,
                    OptionalTensor windows, OptionalTensor sinks, TensorView out,
                    ffi::Optional<double> scale, ffi::Optional<int64_t> window,
                    ffi::Optional<double> soft_cap) {
  kPagedAttention.Check(q, k_pages, v_pages, page_positions, block_table, token_row, token_position,
                        windows, sinks, out);
  CheckHeads(kPagedAttention, q, "k_pages", k_pages.size(1));
  const AttentionOptions options =
      CheckOptions(kPagedAttention, q.size(2), scale, window, soft_cap);
  // Tables on another device are that device's kernel to check: this call reads no memory there.
  if (q.device().device_type == kDLCPU) CheckIndices(block_table, token_row, k_pages.size(0));
  const auto is_count = [](int32_t n) { return n >= 0; };
  CheckValues<int32_t>(kPagedAttention, "windows", windows, is_count, "0 or more");
  CheckValues<int32_t>(kPagedAttention, "sinks", sinks, is_count, "0 or more");
  kPagedAttention.That(!windows.has_value() || !window.has_value(),
                       "windows and window were both given, expected one of them");
  if (out.numel() == 0) return;
  const ArrayView none(nullptr, kI32, {0}, q.device());
  paged_attention_kernel(q.device(), out, q, k_pages, v_pages, page_positions, block_table,
                         token_row, token_position, OrNone(windows, none), OrNone(sinks, none),
                         options.scale, options.window, options.soft_cap);
}

TVM_FFI_STATIC_INIT_BLOCK() { kPagedAttention.Register(PagedAttention); }

}  // namespace
}  // namespace mlf
