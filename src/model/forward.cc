// Working memory of a forward pass. Counterpart: forward.h.
#include "model/forward.h"

#include <algorithm>
#include <string>

#include "kernels/linear.h"

namespace mlf {
namespace {

constexpr int64_t kFloatBytes = sizeof(float);
}  // namespace

Workspace::Workspace(const ModelConfig& config, int64_t max_tokens) : config_(config) {
  const std::string purpose =
      "working memory for batches of " + std::to_string(max_tokens) + " tokens";
  const auto floats = [&](int64_t per_token) {
    return Buffer::For(purpose, max_tokens * per_token * kFloatBytes);
  };
  hidden_ = floats(config.n_embd);
  normed_ = floats(config.n_embd);
  delta_ = floats(config.n_embd);
  query_ = floats(config.q_dim());
  key_ = floats(config.kv_dim());
  value_ = floats(config.kv_dim());
  copied_key_ = floats(config.kv_dim());
  copied_value_ = floats(config.kv_dim());
  attended_ = floats(config.q_dim());
  gate_ = floats(config.n_ff);
  up_ = floats(config.n_ff);
  cos_sin_ = floats(config.rope_dims);
  const int64_t widest = config.widest(),
                padded = (widest + kQuantBlock - 1) / kQuantBlock * kQuantBlock,
                quantized_bytes = max_tokens * QuantizedRowBytes(padded, kMaxActivationPlanes);
  quantized_ = Buffer::For(purpose, quantized_bytes);
  adapter_input_ = floats(widest);
  adapter_low_ = floats(widest);
  adapter_quantized_ = Buffer::For(purpose, quantized_bytes);
  adapter_output_ =
      Buffer::For(purpose, std::max(max_tokens * widest, config.n_vocab) * kFloatBytes);
}

ArrayView Workspace::CosSin(int64_t tokens) const {
  return {cos_sin_.data(), kF32, {tokens, 2, config_.rope_dims / 2}};
}

ArrayView Workspace::Quantized(int64_t tokens, int64_t cols, int planes) const {
  return {quantized_.data(), kU8, {tokens, QuantizedRowBytes(cols, planes)}};
}

ArrayView Workspace::AdapterQuantized(int64_t tokens, int64_t cols, int planes) const {
  return {adapter_quantized_.data(), kU8, {tokens, QuantizedRowBytes(cols, planes)}};
}

int64_t Workspace::AdapterTokens(int64_t cols) const {
  return adapter_output_.bytes() / kFloatBytes / cols;
}

}  // namespace mlf
