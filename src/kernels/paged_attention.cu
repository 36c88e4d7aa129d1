// Attention over a paged KV cache on CUDA. Counterparts: attention.h, paged_attention.cc (the op,
// which finds this by its registered name), attention_mma.cuh, attention_plain.cuh.
#include "kernels/attention_dispatch.cuh"

namespace mlf {
namespace {

/// The tensors that say which entries a token sees.
struct PagedTables {
  TensorView page_positions, block_table, token_row, token_position, windows, sinks;
};

template <typename T>
PagedSource<T> SourceOf(TensorView k_pages, TensorView v_pages, const PagedTables& tables,
                        int64_t window) {
  PagedSource<T> s{};
  s.k = Data<const T>(k_pages);
  s.v = Data<const T>(v_pages);
  s.positions = Data<const int32_t>(tables.page_positions);
  s.table = Data<const int32_t>(tables.block_table);
  s.token_row = Data<const int32_t>(tables.token_row);
  s.token_position = Data<const int32_t>(tables.token_position);
  s.windows = Data<const int32_t>(tables.windows);
  s.sinks = Data<const int32_t>(tables.sinks);
  s.window = window;
  s.pages = static_cast<int>(k_pages.size(0));
  s.table_rows = static_cast<int>(tables.block_table.size(0));
  s.max_pages = static_cast<int>(tables.block_table.size(1));
  s.kv_heads = static_cast<int>(k_pages.size(1));
  s.head_dim = static_cast<int>(k_pages.size(2));
  s.k_vectors = IsVectorAligned(s.k);
  s.v_vectors = CopiesVectors(s.v, s.head_dim);
  s.position_vectors = IsVectorAligned(s.positions);
  return s;
}

/// The slot `my_llm_ffi.paged_attention.cuda`. The op has checked all but the values in the tables:
/// pages and rows that are not there hold nothing, a negative window is none.
void PagedAttentionCuda(TensorView out, TensorView q, TensorView k_pages, TensorView v_pages,
                        TensorView page_positions, TensorView block_table, TensorView token_row,
                        TensorView token_position, TensorView windows, TensorView sinks,
                        double scale, int64_t window, double soft_cap) {
  if (out.numel() == 0) return;
  const CudaCall call("paged_attention", {{"q", q},
                                          {"k_pages", k_pages},
                                          {"v_pages", v_pages},
                                          {"page_positions", page_positions},
                                          {"block_table", block_table},
                                          {"token_row", token_row},
                                          {"token_position", token_position},
                                          {"windows", windows},
                                          {"sinks", sinks},
                                          {"out", out}});
  const PagedTables tables{page_positions, block_table, token_row, token_position, windows, sinks};
  DispatchFloat(q.dtype(), [&]<typename Q>() {
    DispatchFloat(k_pages.dtype(), [&]<typename T>() {
      AttentionArguments<Q, PagedSource<T>> a{};
      a.out = Data<Q>(out);
      a.q = Data<const Q>(q);
      a.source = SourceOf<T>(k_pages, v_pages, tables, window);
      a.tokens = q.size(0);
      a.heads = static_cast<int>(q.size(1));
      a.head_dim = static_cast<int>(q.size(2));
      a.scale = ScoreScale::Of(scale, soft_cap);
      AttentionLauncher(call, a, block_table.size(0), MostSegmentsOfPages(block_table.size(1)))
          .Launch();
    });
  });
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.paged_attention.cuda", PagedAttentionCuda);
}

}  // namespace
}  // namespace mlf
