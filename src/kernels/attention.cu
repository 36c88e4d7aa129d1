// Attention over plain tensors on CUDA. Counterparts: attention.h, attention.cc (the op, which
// finds this by its registered name), attention_mma.cuh, attention_plain.cuh.
#include "kernels/attention_dispatch.cuh"

namespace mlf {
namespace {

template <typename T>
RowSource<T> SourceOf(TensorView q, TensorView k, TensorView v, TensorView cu_q, TensorView cu_k,
                      bool causal, int64_t window) {
  RowSource<T> s{};
  s.k = Data<const T>(k);
  s.v = Data<const T>(v);
  s.cu_q = Data<const int32_t>(cu_q);
  s.cu_k = Data<const int32_t>(cu_k);
  s.queries = q.size(0);
  s.keys = k.size(0);
  s.window = window;
  s.sequences = s.cu_q == nullptr ? 1 : static_cast<int>(cu_q.size(0) - 1);
  s.kv_heads = static_cast<int>(k.size(1));
  s.head_dim = static_cast<int>(k.size(2));
  s.causal = causal;
  s.k_vectors = CopiesVectors(s.k, s.head_dim);
  s.v_vectors = CopiesVectors(s.v, s.head_dim);
  return s;
}

/// The slot `my_llm_ffi.attention.cuda`. The op has checked all but the values of cu_q and cu_k: a
/// bound outside the rows is moved into them.
void AttentionCuda(TensorView out, TensorView q, TensorView k, TensorView v, TensorView cu_q,
                   TensorView cu_k, double scale, bool causal, int64_t window, double soft_cap) {
  if (out.numel() == 0) return;
  const CudaCall call("attention",
                      {{"q", q}, {"k", k}, {"v", v}, {"cu_q", cu_q}, {"cu_k", cu_k}, {"out", out}});
  if (cu_q.data_ptr() != nullptr && cu_q.size(0) < 2) {
    TVM_FFI_THROW(ValueError) << "attention: cu_q has shape " << ShapeString(cu_q) << ", but q has "
                              << q.size(0) << " rows: expected at least two bounds";
  }
  DispatchFloat(q.dtype(), [&]<typename T>() {
    AttentionArguments<T, RowSource<T>> a{};
    a.out = Data<T>(out);
    a.q = Data<const T>(q);
    a.source = SourceOf<T>(q, k, v, cu_q, cu_k, causal, window);
    a.tokens = q.size(0);
    a.heads = static_cast<int>(q.size(1));
    a.head_dim = static_cast<int>(q.size(2));
    a.scale = ScoreScale::Of(scale, soft_cap);
    AttentionLauncher(call, a, a.source.sequences, CountSegments(k.size(0))).Launch();
  });
}

TVM_FFI_STATIC_INIT_BLOCK() { RegisterCudaKernel("my_llm_ffi.attention.cuda", AttentionCuda); }

}  // namespace
}  // namespace mlf
