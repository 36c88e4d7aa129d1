// Texts as vectors. Counterpart: embedding.h.
#include "runtime/embedding.h"

#include <algorithm>
#include <cmath>

#include "base/quote.h"
#include "runtime/context.h"
#include "runtime/row_tensor.h"

namespace mlf {
namespace {

constexpr int64_t kTokensAtOnce = 512;  // of one pass

/// Every text has a token, and fits.
int64_t LongestOf(const Model& model, const std::vector<std::vector<int64_t>>& texts) {
  int64_t longest = 1;
  const int64_t most = model.config().n_ctx_train;
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto n = static_cast<int64_t>(texts[i].size());
    if (n == 0) TVM_FFI_THROW(ValueError) << "embed: text " << i << " has no tokens";
    if (n > most) {
      TVM_FFI_THROW(ValueError) << "embed: text " << i << " has " << n << " tokens, more than "
                                << most << ", the training length";
    }
    longest = std::max(longest, n);
  }
  return longest;
}

/// Fills rows of `out` with the vectors of texts that fit one pass together, or of one longer text.
class TextGroup {
 public:
  TextGroup(Context& context, const EmbedOptions& options, Pooling pooling, ffi::Tensor out)
      : context_(context), options_(options), pooling_(pooling), out_(std::move(out)) {}

  void Embed(std::span<const std::vector<int64_t>> texts, int64_t first) {
    const int64_t n_embd = out_.size(1);
    std::vector<EmbeddingPool> pools(texts.size(), EmbeddingPool(pooling_, n_embd));
    Batch batch;
    for (size_t seq = 0; seq < texts.size(); ++seq) {
      for (size_t i = 0; i < texts[seq].size(); ++i) {
        batch.tokens.push_back(
            {texts[seq][i], static_cast<int64_t>(i), {static_cast<int64_t>(seq)}, false});
        if (static_cast<int64_t>(batch.tokens.size()) == kTokensAtOnce) Run(&batch, pools);
      }
    }
    if (!batch.tokens.empty()) Run(&batch, pools);
    context_.Clear();
    auto* rows = static_cast<float*>(out_.data_ptr()) + first * n_embd;
    for (size_t i = 0; i < pools.size(); ++i) {
      pools[i].Finish(options_.normalize, rows + static_cast<int64_t>(i) * n_embd);
    }
  }

 private:
  void Run(Batch* batch, std::vector<EmbeddingPool>& pools) {
    context_.Decode(*batch);
    const ffi::Tensor embeddings = context_.embeddings();
    const auto n_embd = static_cast<size_t>(embeddings.size(1));
    const auto* row = static_cast<const float*>(embeddings.data_ptr());
    for (const BatchToken& t : batch->tokens) {
      pools[t.sequences[0]].Add({row, n_embd});
      row += n_embd;
    }
    batch->tokens.clear();
  }

  Context& context_;
  const EmbedOptions& options_;
  Pooling pooling_;
  ffi::Tensor out_;
};

}  // namespace

Pooling PoolingOf(std::string_view name) {
  if (name == "mean") return Pooling::kMean;
  if (name == "cls") return Pooling::kCls;
  if (name == "last") return Pooling::kLast;
  TVM_FFI_THROW(ValueError) << "pooling is " << Quoted(name)
                            << ", expected \"mean\", \"cls\" or \"last\"";
}

Pooling PoolingOf(const ModelConfig& config) {
  switch (config.pooling_type) {
    case 0:
    case 1:
      return Pooling::kMean;
    case 2:
      return Pooling::kCls;
    case 3:
      return Pooling::kLast;
    default:
      TVM_FFI_THROW(NotImplementedError)
          << "the model's pooling_type is " << config.pooling_type
          << ", expected 1 (mean), 2 (cls) or 3 (last); name one of these";
  }
}

void EmbeddingPool::Add(std::span<const float> row) {
  ++count_;
  if (pooling_ == Pooling::kCls && count_ > 1) return;
  if (pooling_ == Pooling::kMean) {
    for (size_t i = 0; i < sum_.size(); ++i) sum_[i] += row[i];
  } else {
    std::copy_n(row.begin(), sum_.size(), sum_.begin());
  }
}

void EmbeddingPool::Finish(bool normalize, float* out) const {
  double squares = 0;
  for (const double x : sum_) squares += x * x;
  double factor = 1;
  if (normalize) {
    factor = squares > 0 ? 1 / std::sqrt(squares) : 1;
  } else if (pooling_ == Pooling::kMean && count_ > 0) {
    factor = 1 / static_cast<double>(count_);
  }
  for (size_t i = 0; i < sum_.size(); ++i) out[i] = static_cast<float>(sum_[i] * factor);
}

ffi::Tensor Embed(std::shared_ptr<const Model> model,
                  const std::vector<std::vector<int64_t>>& texts, const EmbedOptions& options) {
  const Pooling pooling = options.pooling ? *options.pooling : PoolingOf(model->config());
  const auto n = static_cast<int64_t>(texts.size());
  const ffi::Tensor out = NewRows("embeddings", n, model->config().n_embd);
  const int64_t longest = LongestOf(*model, texts);
  Context context(model, {.n_ctx = std::max(longest, kTokensAtOnce),
                          .n_seq_max = std::clamp<int64_t>(n, 1, kTokensAtOnce),
                          .n_batch = kTokensAtOnce,
                          .embeddings = true});
  TextGroup group(context, options, pooling, out);
  const std::span<const std::vector<int64_t>> all(texts);
  for (size_t begin = 0, end = 0; begin < texts.size(); begin = end) {
    size_t tokens = texts[end++].size();
    while (end < texts.size() && tokens + texts[end].size() <= kTokensAtOnce) {
      tokens += texts[end++].size();
    }
    group.Embed(all.subspan(begin, end - begin), static_cast<int64_t>(begin));
  }
  return out;
}

}  // namespace mlf
