// A loaded model. Counterpart: model.h.
#include "model/model.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>

#include "base/interrupt.h"
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

std::shared_ptr<const Network> Model::network() const {
  const std::lock_guard<std::mutex> lock(open_mutex_);
  if (network_ == nullptr) TVM_FFI_THROW(ValueError) << "this Model is closed";
  return network_;
}

std::shared_ptr<const Gguf> Model::file() const {
  const std::lock_guard<std::mutex> lock(open_mutex_);
  if (file_ == nullptr) TVM_FFI_THROW(ValueError) << "this Model is closed";
  return file_;
}

void Model::Close() const {
  const std::lock_guard<std::mutex> lock(open_mutex_);
  network_.reset();
  file_.reset();
}

uint64_t Model::Fingerprint() const {
  constexpr int64_t kSampledBytes = 256;
  uint64_t hash = 0xCBF29CE484222325;  // FNV-1a
  const auto add = [&](const void* data, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001B3;
    }
  };
  const auto file = this->file();
  for (const GgufTensor& t : file->tensors()) {
    add(t.name.data(), static_cast<int64_t>(t.name.size()));
    add(t.shape.data(), static_cast<int64_t>(t.shape.size() * sizeof(int64_t)));
    add(&t.format, sizeof t.format);
    add(t.data, std::min(t.bytes, kSampledBytes));
  }
  return hash;
}

std::shared_ptr<const Model> Model::Load(const std::string& path, const ModelOptions& options) {
  const LongCall call;
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
  model->matrices_ = loader.matrices();
  return model;
}

}  // namespace mlf
