// What a model is, read and checked from its metadata. Counterpart: config.cc.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>

#include "io/gguf.h"

namespace mlf {

struct ModelConfig {
  std::string architecture;  // general.architecture
  std::string name;          // general.name, may be empty
  int64_t n_layers = 0, n_embd = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, n_ff = 0;
  int64_t n_vocab = 0, n_ctx_train = 0;
  double norm_eps = 0;
  double rope_base = 10000, rope_freq_scale = 1;  // scale multiplies positions
  int64_t rope_dims = 0;                          // rotated dims of each head
  bool rope_interleaved = false;                  // set by the architecture
  int64_t pooling_type = 0;  // of texts' hidden rows, as GGUF numbers them; 0: not said

  int64_t q_dim() const { return n_heads * head_dim; }
  int64_t kv_dim() const { return n_kv_heads * head_dim; }
  /// Of all activations but logits.
  int64_t widest() const { return std::max({n_embd, q_dim(), n_ff}); }
};

/// Reads `<architecture>.*`. Throws ValueError naming the key that is missing or out of range,
/// NotImplementedError naming a feature that this library does not compute (experts, sliding
/// windows, per-layer heads, yarn).
ModelConfig ReadConfig(const Gguf& file, int64_t n_vocab);

}  // namespace mlf
