// One prompt continued token by token. Counterpart: generation.h.
#include "runtime/generation.h"

#include "runtime/exclusive.h"

namespace mlf {

Generation::Generation(std::shared_ptr<Context> context, std::shared_ptr<Sampler> sampler,
                       std::vector<int64_t> prompt, int64_t max_new_tokens,
                       std::vector<std::string> stops)
    : context_(std::move(context)),
      sampler_(std::move(sampler)),
      pending_(std::move(prompt)),
      max_new_tokens_(max_new_tokens),
      decoder_(context_->model().vocab(), /*skip_special=*/true, /*at_start=*/false),
      stop_matcher_(std::move(stops)) {
  if (pending_.empty()) TVM_FFI_THROW(ValueError) << "prompt: no tokens";
  if (max_new_tokens < 0) {
    TVM_FFI_THROW(ValueError) << "max_new_tokens is " << max_new_tokens << ", expected a count";
  }
  const int64_t n_vocab = context_->model().config().n_vocab;
  for (int64_t token : pending_) {
    if (token < 0 || token >= n_vocab) {
      TVM_FFI_THROW(ValueError) << "prompt: token " << token << " is out of range, expected 0 to "
                                << n_vocab - 1;
    }
    sampler_->Accept(static_cast<int32_t>(token));
  }
  const int64_t length = context_->Count(0) + static_cast<int64_t>(pending_.size());
  if (length > context_->n_ctx()) {
    TVM_FFI_THROW(ValueError) << "prompt: " << length
                              << " tokens do not fit n_ctx=" << context_->n_ctx();
  }
}

/// Decodes what is pending and samples the token that follows it.
int32_t Generation::NextToken() {
  const auto start = std::chrono::steady_clock::now();
  context_->Decode(pending_);
  // The embedding may have more rows than the vocabulary has tokens: those mean nothing.
  const Model& model = context_->model();
  const ffi::Tensor logits = context_->logits();
  const int32_t token = sampler_->Sample(LogitsRow(logits, -1).first(model.vocab()->size()));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (tokens_.empty()) {
    timings_.prompt_tokens = static_cast<int64_t>(pending_.size());
    timings_.prompt_seconds = seconds;
  } else {
    timings_.generated_tokens += 1;
    timings_.generated_seconds += seconds;
  }
  return token;
}

std::string Generation::Finish(FinishReason reason) {
  finish_reason_ = reason;
  std::string rest = stop_matcher_.Push(decoder_.Finish());
  if (stop_matcher_.stopped()) finish_reason_ = FinishReason::kStopWords;
  return rest + stop_matcher_.Finish();
}

std::string Generation::Step() {
  if (static_cast<int64_t>(tokens_.size()) >= max_new_tokens_) return Finish(FinishReason::kLength);
  const bool full = context_->Count(0) >= context_->n_ctx();
  if (full && !tokens_.empty()) return Finish(FinishReason::kLength);
  const int32_t token = NextToken();
  if (context_->model().vocab()->IsEog(token)) return Finish(FinishReason::kEndId);
  sampler_->Accept(token);
  tokens_.push_back(token);
  pending_.assign(1, token);
  std::string text = stop_matcher_.Push(decoder_.Push(token));
  if (stop_matcher_.stopped()) finish_reason_ = FinishReason::kStopWords;
  return text;
}

std::vector<int32_t> Generation::tokens() const {
  const ExclusiveUse exclusive(in_use_, "Generation");
  return tokens_;
}

FinishReason Generation::finish_reason() const {
  const ExclusiveUse exclusive(in_use_, "Generation");
  return finish_reason_;
}

GenerationTimings Generation::timings() const {
  const ExclusiveUse exclusive(in_use_, "Generation");
  return timings_;
}

std::optional<std::string> Generation::Next() {
  const ExclusiveUse exclusive(in_use_, "Generation");
  while (finish_reason_ == FinishReason::kNotFinished) {
    std::string text = Step();
    if (!text.empty()) return text;
  }
  return std::nullopt;
}

}  // namespace mlf
