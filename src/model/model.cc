// A loaded model. Counterpart: model.h.
#include "model/model.h"

#include <tvm/ffi/tvm_ffi.h>

#include "base/thread_pool.h"
#include "model/load_vocab.h"

namespace mlf {
namespace {

/// Rows of the embedding: the vocabulary may be padded beyond the tokenizer's.
int64_t VocabRows(const Gguf& file) {
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr)
    TVM_FFI_THROW(ValueError) << file.path() << ": tensor token_embd.weight is missing";
  if (embedding->shape.size() != 2 || embedding->shape[0] < 1 || embedding->shape[0] > INT32_MAX) {
    TVM_FFI_THROW(ValueError) << file.path()
                              << ": tensor token_embd.weight is not a [n_vocab, n_embd] matrix";
  }
  return embedding->shape[0];
}

}  // namespace

std::shared_ptr<const Model> Model::Load(const std::string& path, const ModelOptions& options) {
  auto model = std::shared_ptr<Model>(new Model);
  const ThreadLimit limit(options.n_threads);
  model->n_threads_ = options.n_threads;
  model->file_ = Gguf::Open(path, {.mmap = options.mmap, .mlock = options.mlock});
  const Gguf& file = *model->file_;
  const auto architecture = file.String("general.architecture");
  if (!architecture)
    TVM_FFI_THROW(ValueError) << path << ": metadata key general.architecture is missing";
  const BuildNetwork build = FindArchitecture(std::string(*architecture));
  model->vocab_ = LoadVocab(file);
  model->config_ = ReadConfig(file, VocabRows(file));
  if (model->vocab_->size() > model->config_.n_vocab) {
    TVM_FFI_THROW(ValueError) << path << ": the vocabulary has " << model->vocab_->size()
                              << " tokens, the embedding only " << model->config_.n_vocab
                              << " rows";
  }
  WeightLoader loader(model->file_, {.repack = options.repack, .progress = options.progress});
  model->network_ = build(model->config_, loader);
  loader.Finish();
  return model;
}

}  // namespace mlf
