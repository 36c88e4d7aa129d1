// Texts as vectors: pooling of hidden rows. Counterpart: embedding.cc.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "model/model.h"

namespace mlf {

/// Which rows of a text make its vector. Numbers are those of GGUF's pooling_type.
enum class Pooling : int { kMean = 1, kCls = 2, kLast = 3 };

/// "mean", "cls" (the first row) or "last"; ValueError for another name.
Pooling PoolingOf(std::string_view name);

/// What the model's file says, or the mean. NotImplementedError where it says what is none of them.
Pooling PoolingOf(const ModelConfig& config);

/// Takes the hidden rows of one text in order, some at a time.
class EmbeddingPool {
 public:
  EmbeddingPool(Pooling pooling, int64_t n_embd) : pooling_(pooling), sum_(n_embd) {}

  void Add(std::span<const float> row);
  /// Writes n_embd floats: zeros where nothing was added; of length 1 where `normalize`, unless all
  /// are zero.
  void Finish(bool normalize, float* out) const;

 private:
  Pooling pooling_;
  std::vector<double> sum_;  // of all rows, or the one that counts
  int64_t count_ = 0;
};

struct EmbedOptions {
  std::optional<Pooling> pooling{};  // none: the model's
  bool normalize = true;
};

/// float32 [texts, n_embd]. A text's vector does not depend on the other texts. ValueError for a
/// text without tokens, one longer than the training length, or a token out of range.
ffi::Tensor Embed(std::shared_ptr<const Model> model,
                  const std::vector<std::vector<int64_t>>& texts, const EmbedOptions& options);

}  // namespace mlf
