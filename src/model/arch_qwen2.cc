// Architecture "qwen2": Qwen 1.5, 2 and 2.5 without experts. Yang et al., arXiv:2407.10671.
#include "model/decoder.h"

namespace mlf {
namespace {

std::unique_ptr<Network> BuildQwen2(ModelConfig& config, WeightLoader& loader) {
  return BuildDecoder(
      config, loader,
      {.rope_interleaved = false, .attention_bias = true, .rope_freq_factors = false});
}

[[maybe_unused]] const bool kRegistered = RegisterArchitecture("qwen2", BuildQwen2);

}  // namespace
}  // namespace mlf
