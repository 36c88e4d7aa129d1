// The pre-norm decoder that llama-like architectures share. Counterpart: decoder.cc.
#pragma once
#include <memory>
#include <vector>

#include "model/architecture.h"
#include "model/layers.h"

namespace mlf {

/// What differs between the architectures built on it.
struct DecoderTraits {
  bool rope_interleaved;   // which pairs of a head are rotated
  bool attention_bias;     // q, k and v must have a bias; otherwise they may
  bool rope_freq_factors;  // rope_freqs.weight may be there (llama 3)
};

/// x = embed(token); per block x += attention(norm(x)), x += ff(norm(x)); logits = head(norm(x)).
std::unique_ptr<Network> BuildDecoder(ModelConfig& config, WeightLoader& loader,
                                      const DecoderTraits& traits);

}  // namespace mlf
