// The pre-norm decoder. Counterpart: decoder.h.
#include "model/decoder.h"

#include "kernels/linear.h"
#include "kernels/rope.h"
#include "kernels/scatter.h"

namespace mlf {
namespace {

struct Block {
  Norm attention_norm;
  Attention attention;
  Norm ff_norm;
  FeedForward ff;
};

class Decoder final : public Network {
 public:
  Decoder(ModelConfig& config, WeightLoader& loader, const DecoderTraits& traits);

  void Forward(const ForwardBatch& batch, const std::vector<KvLayer>& kv,
               const Workspace& workspace, const RopeSettings& rope,
               ArrayView logits) const override;
  ArrayView freq_factors() const override { return freq_factors_.view(); }

 private:
  void Embed(ArrayView hidden, const ForwardBatch& batch) const;
  void Finish(ArrayView hidden, ArrayView delta, const ForwardBatch& batch,
              const Workspace& workspace, ArrayView logits) const;

  std::shared_ptr<const Gguf> file_;  // what is not repacked points into it
  ModelConfig config_;
  Weight embedding_, head_;  // head_ is empty when the embedding serves as head too
  std::vector<Block> blocks_;
  Norm output_norm_;
  Vector freq_factors_;
};

Decoder::Decoder(ModelConfig& config, WeightLoader& loader, const DecoderTraits& traits)
    : file_(loader.file()) {
  config.rope_interleaved = traits.rope_interleaved;
  config_ = config;
  const bool tied = !loader.Has("output.weight");
  // A tied embedding is looked up in the tiled layout; a separate one is only looked up and stays
  // in the file.
  embedding_ = tied ? loader.Matrix("token_embd.weight", config.n_vocab, config.n_embd)
                    : loader.Table("token_embd.weight", config.n_vocab, config.n_embd);
  if (!tied) head_ = loader.Matrix("output.weight", config.n_vocab, config.n_embd);
  const auto norm = [&](const std::string& name) {
    return Norm{loader.Values(name, config.n_embd), config.norm_eps};
  };
  output_norm_ = norm("output_norm.weight");
  if (traits.rope_freq_factors)
    freq_factors_ = loader.OptionalValues("rope_freqs.weight", config.rope_dims / 2);
  for (int64_t i = 0; i < config.n_layers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    blocks_.push_back({norm(block + "attn_norm.weight"),
                       Attention::Load(loader, block, config, traits.attention_bias),
                       norm(block + "ffn_norm.weight"), FeedForward::Load(loader, block, config)});
  }
}

void Decoder::Forward(const ForwardBatch& batch, const std::vector<KvLayer>& kv,
                      const Workspace& workspace, const RopeSettings& rope,
                      ArrayView logits) const {
  const int64_t tokens = batch.size();
  const ArrayView hidden = workspace.Hidden(tokens), normed = workspace.Normed(tokens),
                  delta = workspace.Delta(tokens);
  const DLDevice device = hidden.device();
  Embed(hidden, batch);
  rope_angles_kernel(device, workspace.CosSin(tokens), batch.positions, freq_factors(), rope.base,
                     rope.freq_scale);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    if (i == 0) {
      block.attention_norm.Forward(normed, hidden);
    } else {
      block.attention_norm.ForwardAdd(normed, hidden, delta);
    }
    block.attention.Forward(delta, normed, batch, kv[i], workspace, config_);
    block.ff_norm.ForwardAdd(normed, hidden, delta);
    block.ff.Forward(delta, normed, batch, workspace);
  }
  Finish(hidden, delta, batch, workspace, logits);
}

void Decoder::Embed(ArrayView hidden, const ForwardBatch& batch) const {
  embedding_lookup_kernel(hidden.device(), hidden, embedding_.view(), batch.tokens,
                          static_cast<int64_t>(embedding_.format), config_.n_embd);
  if (!batch.soft_tokens.defined()) return;
  scatter_rows_kernel(hidden.device(), hidden, batch.soft_rows, batch.soft_tokens, /*scale=*/1.0,
                      /*add=*/false);
}

/// Hidden rows and logits. The head runs only for the rows that need logits. Normed, Query and the
/// rest of the workspace are free here.
void Decoder::Finish(ArrayView hidden, ArrayView delta, const ForwardBatch& batch,
                     const Workspace& workspace, ArrayView logits) const {
  const int64_t rows = batch.n_outputs();
  const bool embeddings = batch.embedding_tokens.defined();
  if (rows == 0 && !embeddings) return;
  const ArrayView normed = workspace.Normed(batch.size());
  output_norm_.ForwardAdd(normed, hidden, delta);
  if (embeddings) GatherRows(batch.embeddings, normed, batch.embedding_tokens);
  if (rows == 0) return;
  ArrayView chosen = normed;
  if (rows < batch.size()) {
    chosen = workspace.Hidden(rows);
    GatherRows(chosen, normed, batch.outputs);
  }
  Activations(chosen, workspace, batch.lora, &LoraRows::outputs)
      .Times(head_.rows > 0 ? head_ : embedding_, logits);
}

}  // namespace

std::unique_ptr<Network> BuildDecoder(ModelConfig& config, WeightLoader& loader,
                                      const DecoderTraits& traits) {
  return std::make_unique<Decoder>(config, loader, traits);
}

}  // namespace mlf
