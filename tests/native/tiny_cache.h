// A KV cache whose entries are 32 bytes, for native tests.
#pragma once
#include "model/config.h"

namespace mlf {

/// Two layers of one head of two dims: as float32, k0 k1 v0 v1 of each layer.
inline ModelConfig TinyCacheConfig() {
  ModelConfig config;
  config.n_layers = 2;
  config.n_kv_heads = 1;
  config.head_dim = config.rope_dims = 2;
  return config;
}

}  // namespace mlf
