// LoRA adapters. Counterpart: lora.h.
#include "model/lora.h"

#include <tvm/ffi/tvm_ffi.h>

#include <cmath>
#include <cstring>
#include <string_view>
#include <unordered_map>

#include "base/interrupt.h"
#include "base/quote.h"
#include "base/thread_pool.h"
#include "model/model.h"

namespace mlf {
namespace {

constexpr std::string_view kA = ".lora_a", kB = ".lora_b";

void Require(const Gguf& file, const std::string& key, std::string_view expected) {
  const auto value = file.String(key);
  if (value == expected) return;
  TVM_FFI_THROW(ValueError) << file.path() << ": metadata key " << key << " is "
                            << (value ? Quoted(*value) : "missing") << ", expected "
                            << Quoted(expected);
}

void CheckKind(const Gguf& file, const Model& model) {
  Require(file, "general.type", "adapter");
  Require(file, "adapter.type", "lora");
  Require(file, "general.architecture", model.config().architecture);
  if (file.Find("adapter.alora.invocation_tokens") != nullptr) {
    TVM_FFI_THROW(NotImplementedError)
        << file.path() << ": an adapter that begins at invocation tokens "
        << "(adapter.alora.invocation_tokens) is not supported by this version";
  }
}

double ReadAlpha(const Gguf& file) {
  const double alpha = file.Float("adapter.lora.alpha").value_or(0);
  if (std::isfinite(static_cast<float>(alpha))) return alpha;
  TVM_FFI_THROW(ValueError) << file.path() << ": adapter.lora.alpha is " << alpha
                            << ", expected a finite number";
}

/// The matrix that a tensor is one half of a change of.
std::string TargetOf(const Gguf& file, const GgufTensor& tensor) {
  const std::string_view name = tensor.name;
  if (!name.ends_with(kA) && !name.ends_with(kB)) {
    TVM_FFI_THROW(NotImplementedError)
        << file.path() << ": tensor " << Quoted(name) << " is no half of a low-rank change (" << kA
        << ", " << kB << "), and others are not supported by this version";
  }
  const std::string target(name.substr(0, name.size() - kA.size()));
  if (target == "token_embd.weight") {
    TVM_FFI_THROW(NotImplementedError) << file.path() << ": tensor " << name
                                       << " changes the embedding, which is not supported by this "
                                          "version";
  }
  const std::string partner = target + std::string(name.ends_with(kA) ? kB : kA);
  if (file.FindTensor(partner) == nullptr) {
    TVM_FFI_THROW(ValueError) << file.path() << ": tensor " << Quoted(name)
                              << " is without its partner " << Quoted(partner);
  }
  return target;
}

int64_t ReadRank(const Gguf& file, const GgufTensor& a, const ModelConfig& config) {
  const int64_t rank = a.shape.size() == 2 ? a.shape[0] : 0;
  if (rank >= 1 && rank <= config.widest()) return rank;
  TVM_FFI_THROW(ValueError) << file.path() << ": tensor " << a.name << " has " << a.shape.size()
                            << " dimensions and rank " << a.shape[0]
                            << ", expected [rank, cols] with a rank of 1 to " << config.widest();
}

class Fingerprint {
 public:
  void Add(const void* data, int64_t n) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    for (int64_t i = 0; i < n; i += kWord) {
      uint64_t word = 0;
      std::memcpy(&word, bytes + i, std::min<int64_t>(kWord, n - i));
      hash_ = (hash_ ^ word) * 0x9E3779B97F4A7C15;  // odd, so that no bit is lost ...
      hash_ ^= hash_ >> 32;                         // ... and high ones reach low ones
    }
  }
  void Add(const GgufTensor& t) {
    Add(t.name.data(), static_cast<int64_t>(t.name.size()));
    Add(t.shape.data(), static_cast<int64_t>(t.shape.size() * sizeof(int64_t)));
    Add(&t.format, sizeof t.format);
    Add(t.data, t.bytes);
  }
  uint64_t value() const { return hash_; }

 private:
  static constexpr int64_t kWord = sizeof(uint64_t);
  uint64_t hash_ = 0xCBF29CE484222325;
};

}  // namespace

std::shared_ptr<const LoraAdapter> LoraAdapter::Load(const std::string& path, const Model& model) {
  const LongCall call;
  const ThreadLimit limit(model.n_threads());
  const auto file = Gguf::Open(path);
  CheckKind(*file, model);
  auto adapter = std::shared_ptr<LoraAdapter>(new LoraAdapter);
  adapter->alpha_ = ReadAlpha(*file);
  adapter->architecture_ = model.config().architecture;
  adapter->matrices_ = model.matrices();
  adapter->pairs_.resize(adapter->matrices_.size());
  std::unordered_map<std::string_view, size_t> index_of;
  for (size_t i = 0; i < adapter->matrices_.size(); ++i) index_of[adapter->matrices_[i].name] = i;
  Fingerprint fingerprint;
  fingerprint.Add(&adapter->alpha_, sizeof adapter->alpha_);
  WeightLoader loader(file, {.repack = true, .progress = {}});
  for (const GgufTensor& tensor : file->tensors()) {
    const std::string target = TargetOf(*file, tensor);
    const auto found = index_of.find(target);
    if (found == index_of.end()) {
      TVM_FFI_THROW(ValueError) << path << ": tensor " << Quoted(tensor.name)
                                << " changes a matrix that the model does not have";
    }
    fingerprint.Add(tensor);
    adapter->bytes_ += tensor.bytes;
    if (!std::string_view(tensor.name).ends_with(kA)) continue;
    const int64_t rank = ReadRank(*file, tensor, model.config());
    const MatrixInfo& matrix = adapter->matrices_[found->second];
    LoraPair& pair = adapter->pairs_[found->second];
    pair.a = loader.Matrix(target + std::string(kA), rank, matrix.cols);
    pair.b = loader.Matrix(target + std::string(kB), matrix.rows, rank);
    pair.scale = adapter->alpha_ == 0 ? 1 : static_cast<float>(adapter->alpha_ / rank);
    ++adapter->n_pairs_;
  }
  if (adapter->n_pairs_ == 0) TVM_FFI_THROW(ValueError) << path << ": an adapter without tensors";
  adapter->fingerprint_ = fingerprint.value();
  return adapter;
}

void LoraAdapter::CheckFits(const Model& model) const {
  if (architecture_ == model.config().architecture && matrices_ == model.matrices()) return;
  TVM_FFI_THROW(ValueError) << "lora: this adapter was loaded for another model, of architecture "
                            << Quoted(architecture_);
}

}  // namespace mlf
