// Layers that architectures share. Counterpart: layers.h.
#include "model/layers.h"

#include <cmath>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/rope.h"

namespace mlf {

void GatherRows(ArrayView out, ArrayView x, ArrayView indices) {
  int64_t width = 1;
  for (int i = 1; i < x.ndim(); ++i) width *= x.size(i);
  const int64_t row_bytes = width * static_cast<int64_t>(sizeof(float));
  embedding_lookup_kernel(x.device(),
                          ArrayView(out.data<void>(), kF32, {indices.size(0), width}, x.device()),
                          ArrayView(x.data<void>(), kU8, {x.size(0), row_bytes}, x.device()),
                          indices, static_cast<int64_t>(Format::kF32), width);
}

Activations::Activations(ArrayView x, const Workspace& workspace) : x_(x), workspace_(workspace) {}

void Activations::Times(const Weight& w, ArrayView out, const Vector* bias) {
  const int64_t tokens = x_.size(0);
  const ArrayView flat(out.data<float>(), kF32, {tokens, w.rows}, out.device());
  const ArrayView no_bias(nullptr, kF32, {0}), bias_view = bias != nullptr ? bias->view() : no_bias;
  ArrayView input = x_;
  if (const int planes = ActivationPlanes(w.format); planes > 0) {
    input = workspace_.Quantized(tokens, w.cols, planes);
    if (planes != planes_) quantize_activations_kernel(x_.device(), input, x_, planes);
    planes_ = planes;
  }
  linear_kernel(x_.device(), flat, input, w.view(), bias_view, static_cast<int64_t>(w.format),
                w.cols);
}

void Norm::Forward(ArrayView out, ArrayView x) const {
  rms_norm_kernel(x.device(), out, x, weight.view(), eps);
}

void Norm::ForwardAdd(ArrayView out, ArrayView residual, ArrayView x) const {
  add_rms_norm_kernel(x.device(), out, residual, x, weight.view(), eps);
}

Attention Attention::Load(WeightLoader& loader, const std::string& block, const ModelConfig& c,
                          bool bias_required) {
  const auto bias = [&](const std::string& name, int64_t size) {
    return bias_required ? loader.Values(block + name, size)
                         : loader.OptionalValues(block + name, size);
  };
  return {loader.Matrix(block + "attn_q.weight", c.q_dim(), c.n_embd),
          loader.Matrix(block + "attn_k.weight", c.kv_dim(), c.n_embd),
          loader.Matrix(block + "attn_v.weight", c.kv_dim(), c.n_embd),
          loader.Matrix(block + "attn_output.weight", c.n_embd, c.q_dim()),
          bias("attn_q.bias", c.q_dim()),
          bias("attn_k.bias", c.kv_dim()),
          bias("attn_v.bias", c.kv_dim())};
}

void Attention::Append(const ForwardBatch& batch, const KvLayer& kv,
                       const Workspace& workspace) const {
  const ArrayView key = workspace.Key(batch.size()), value = workspace.Value(batch.size());
  kv_append_kernel(kv.k.device(), kv.k, kv.v, key, value, batch.slots);
  if (!batch.copy_tokens.defined()) return;
  const int64_t copies = batch.copy_tokens.size(0);
  const ArrayView copied_key = workspace.CopiedKey(copies),
                  copied_value = workspace.CopiedValue(copies);
  GatherRows(copied_key, key, batch.copy_tokens);
  GatherRows(copied_value, value, batch.copy_tokens);
  kv_append_kernel(kv.k.device(), kv.k, kv.v, copied_key, copied_value, batch.copy_slots);
}

void Attention::Forward(ArrayView out, ArrayView x, const ForwardBatch& batch, const KvLayer& kv,
                        const Workspace& workspace, const ModelConfig& config) const {
  const int64_t tokens = batch.size();
  const ArrayView query = workspace.Query(tokens), key = workspace.Key(tokens),
                  value = workspace.Value(tokens);
  const DLDevice device = x.device();
  Activations input(x, workspace);
  input.Times(q, query, &q_bias);
  input.Times(k, key, &k_bias);
  input.Times(v, value, &v_bias);
  rope_rotate_kernel(device, query, workspace.CosSin(tokens), config.rope_interleaved);
  rope_rotate_kernel(device, key, workspace.CosSin(tokens), config.rope_interleaved);
  Append(batch, kv, workspace);
  const ArrayView attended = workspace.Attended(tokens);
  paged_attention_kernel(device, attended, query, kv.k, kv.v, batch.page_positions,
                         batch.block_table, batch.rows, batch.positions,
                         1 / std::sqrt(static_cast<double>(config.head_dim)), /*window=*/0,
                         /*soft_cap=*/0.0);
  Activations(ArrayView(attended.data<void>(), kF32, {tokens, config.q_dim()}), workspace)
      .Times(output, out);
}

FeedForward FeedForward::Load(WeightLoader& loader, const std::string& block,
                              const ModelConfig& c) {
  return {loader.Matrix(block + "ffn_gate.weight", c.n_ff, c.n_embd),
          loader.Matrix(block + "ffn_up.weight", c.n_ff, c.n_embd),
          loader.Matrix(block + "ffn_down.weight", c.n_embd, c.n_ff)};
}

void FeedForward::Forward(ArrayView out, ArrayView x, const Workspace& workspace) const {
  const ArrayView gated = workspace.Gate(x.size(0)), upper = workspace.Up(x.size(0));
  Activations input(x, workspace);
  input.Times(gate, gated);
  input.Times(up, upper);
  silu_mul_kernel(x.device(), gated, gated, upper);
  Activations(gated, workspace).Times(down, out);
}

}  // namespace mlf
