// Architecture "llama": Llama 1 to 3, Mistral 7B, SmolLM 1 and 2, TinyLlama. Touvron et al.,
// arXiv:2302.13971.
#include "model/decoder.h"

namespace mlf {
namespace {

// Files of this architecture hold q and k permuted for interleaved pairs.
std::unique_ptr<Network> BuildLlama(ModelConfig& config, WeightLoader& loader) {
  return BuildDecoder(
      config, loader,
      {.rope_interleaved = true, .attention_bias = false, .rope_freq_factors = true});
}

[[maybe_unused]] const bool kRegistered = RegisterArchitecture("llama", BuildLlama);

}  // namespace
}  // namespace mlf
