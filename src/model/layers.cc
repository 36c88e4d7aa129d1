// Layers that architectures share. Counterpart: layers.h.
#include "model/layers.h"

#include <algorithm>
#include <cmath>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "kernels/scatter.h"

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

Activations::Activations(ArrayView x, const Workspace& workspace, std::span<const LoraRows> lora,
                         ArrayView LoraRows::* rows)
    : x_(x), workspace_(workspace), lora_(lora), rows_(rows) {}

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
  for (const LoraRows& use : lora_) {
    const LoraPair* pair = use.adapter->Find(w);
    if (pair == nullptr || !(use.*rows_).defined()) continue;
    Adapt(*pair, double{use.scale} * pair->scale, use.*rows_, flat);
  }
}

void Activations::Adapt(const LoraPair& pair, double scale, ArrayView rows, ArrayView out) const {
  const DLDevice device = x_.device();
  const auto multiply = [&](ArrayView to, ArrayView x, const Weight& w) {
    const int planes = ActivationPlanes(w.format);
    ArrayView input = x;
    if (planes > 0) {
      input = workspace_.AdapterQuantized(x.size(0), w.cols, planes);
      quantize_activations_kernel(device, input, x, planes);
    }
    linear_kernel(device, to, input, w.view(), ArrayView(nullptr, kF32, {0}),
                  static_cast<int64_t>(w.format), w.cols);
  };
  // The tokens of an adapter are brought together: each row is a computation of its own, whatever
  // stands beside it.
  const int64_t count = rows.size(0), most = workspace_.AdapterTokens(pair.b.rows);
  for (int64_t begin = 0; begin < count; begin += most) {
    const int64_t n = std::min(most, count - begin);
    const ArrayView here(rows.data<int32_t>() + begin, kI32, {n}, device),
        input = workspace_.AdapterInput(n, pair.a.cols),
        low = workspace_.AdapterLow(n, pair.rank()),
        output = workspace_.AdapterOutput(n, pair.b.rows);
    GatherRows(input, x_, here);
    multiply(low, input, pair.a);
    multiply(output, low, pair.b);
    scatter_rows_kernel(device, out, output, here, scale, /*add=*/true);
  }
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
  Activations input(x, workspace, batch.lora);
  input.Times(q, query, &q_bias);
  input.Times(k, key, &k_bias);
  input.Times(v, value, &v_bias);
  rope_rotate_kernel(device, query, workspace.CosSin(tokens), config.rope_interleaved);
  rope_rotate_kernel(device, key, workspace.CosSin(tokens), config.rope_interleaved);
  Append(batch, kv, workspace);
  const ArrayView attended = workspace.Attended(tokens);
  paged_attention_kernel(device, attended, query, kv.k, kv.v, batch.page_positions,
                         batch.block_table, batch.rows, batch.positions, batch.windows, batch.sinks,
                         1 / std::sqrt(static_cast<double>(config.head_dim)), /*window=*/0,
                         /*soft_cap=*/0.0);
  Activations(ArrayView(attended.data<void>(), kF32, {tokens, config.q_dim()}), workspace,
              batch.lora)
      .Times(output, out);
}

FeedForward FeedForward::Load(WeightLoader& loader, const std::string& block,
                              const ModelConfig& c) {
  return {loader.Matrix(block + "ffn_gate.weight", c.n_ff, c.n_embd),
          loader.Matrix(block + "ffn_up.weight", c.n_ff, c.n_embd),
          loader.Matrix(block + "ffn_down.weight", c.n_embd, c.n_ff)};
}

void FeedForward::Forward(ArrayView out, ArrayView x, const ForwardBatch& batch,
                          const Workspace& workspace) const {
  const ArrayView gated = workspace.Gate(x.size(0)), upper = workspace.Up(x.size(0));
  Activations input(x, workspace, batch.lora);
  input.Times(gate, gated);
  input.Times(up, upper);
  silu_mul_kernel(x.device(), gated, gated, upper);
  Activations(gated, workspace, batch.lora).Times(down, out);
}

}  // namespace mlf
