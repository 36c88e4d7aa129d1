// Layers that architectures share. Every computation is a kernel call. Counterpart: layers.cc.
#pragma once
#include <span>
#include <string>

#include "model/config.h"
#include "model/forward.h"
#include "model/lora.h"
#include "model/weights.h"

namespace mlf {

/// out[i] = x[indices[i]] over the first dimension, float32; indices int32.
void GatherRows(ArrayView out, ArrayView x, ArrayView indices);

/// Rows of activations, with their rounded form made at first need and shared by all matrices that
/// read them.
class Activations {
 public:
  /// x float32 [tokens, cols]; `lora` says with `rows` which rows of x go through an adapter.
  Activations(ArrayView x, const Workspace& workspace, std::span<const LoraRows> lora,
              ArrayView LoraRows::* rows = &LoraRows::tokens);

  /// out[t, n] = x[t, :] · w[n, :] (+ bias[n]), plus what adapters add; out has rows * tokens
  /// elements in any shape.
  void Times(const Weight& w, ArrayView out, const Vector* bias = nullptr);

 private:
  /// out[t, :] += scale * B(A x[t, :]) for t of `rows`.
  void Adapt(const LoraPair& pair, double scale, ArrayView rows, ArrayView out) const;

  ArrayView x_;
  const Workspace& workspace_;
  std::span<const LoraRows> lora_;
  ArrayView LoraRows::* rows_;
  int planes_ = 0;  // of the rounded form that the workspace holds
};

struct Norm {
  Vector weight;
  double eps = 0;

  void Forward(ArrayView out, ArrayView x) const;
  /// residual += x; out = norm(residual)
  void ForwardAdd(ArrayView out, ArrayView residual, ArrayView x) const;
};

/// Grouped-query attention with rotary positions over the paged cache.
struct Attention {
  Weight q, k, v, output;
  Vector q_bias, k_bias, v_bias;  // empty when the model has none

  static Attention Load(WeightLoader& loader, const std::string& block, const ModelConfig& config,
                        bool bias_required);

  /// out[tokens, n_embd] from x[tokens, n_embd]; appends this batch's keys and values to the pages.
  void Forward(ArrayView out, ArrayView x, const ForwardBatch& batch, const KvLayer& kv,
               const Workspace& workspace, const ModelConfig& config) const;

 private:
  void Append(const ForwardBatch& batch, const KvLayer& kv, const Workspace& workspace) const;
};

/// down(silu(gate(x)) * up(x)) (Shazeer, arXiv:2002.05202).
struct FeedForward {
  Weight gate, up, down;

  static FeedForward Load(WeightLoader& loader, const std::string& block,
                          const ModelConfig& config);
  void Forward(ArrayView out, ArrayView x, const ForwardBatch& batch,
               const Workspace& workspace) const;
};

}  // namespace mlf
