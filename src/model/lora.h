// LoRA adapters: low-rank changes of a model's matrices (Hu et al., arXiv:2106.09685). Counterpart:
// lora.cc.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/weights.h"

namespace mlf {

class Model;

/// What an adapter adds to one matrix: scale * B(A x).
struct LoraPair {
  Weight a;         // [rank, cols of the matrix]
  Weight b;         // [rows of the matrix, rank]
  float scale = 0;  // alpha / rank

  int64_t rank() const { return a.rows; }
};

/// Loaded once, immutable: any number of passes may use it, through ForwardBatch::lora.
class LoraAdapter {
 public:
  /// An adapter as GGUF files hold it: general.type "adapter", adapter.type "lora",
  /// adapter.lora.alpha (0 or absent: the rank of each pair), and for each matrix that it changes
  /// `<name>.lora_a` [rank, cols] and `<name>.lora_b` [rows, rank] of any format. Throws as
  /// Gguf::Open does, ValueError when the file is no adapter or not one for this model,
  /// NotImplementedError where it changes what cannot be changed here (token_embd, norms, biases).
  static std::shared_ptr<const LoraAdapter> Load(const std::string& path, const Model& model);

  /// What it adds to a matrix of the model; nullptr where it leaves it as it is.
  const LoraPair* Find(const Weight& weight) const {
    const auto index = static_cast<size_t>(weight.index);  // −1 is beyond all
    return index < pairs_.size() && pairs_[index].a.rows > 0 ? &pairs_[index] : nullptr;
  }

  /// ValueError unless it was loaded for `model` or one whose matrices are the same.
  void CheckFits(const Model& model) const;

  double alpha() const { return alpha_; }
  int64_t n_pairs() const { return n_pairs_; }
  int64_t bytes() const { return bytes_; }  // of its matrices in the file
  /// A number that adapters with other weights do not share.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  LoraAdapter() = default;

  std::vector<LoraPair> pairs_;  // by Weight::index; without rows where there is none
  std::string architecture_;
  std::vector<MatrixInfo> matrices_;  // of the model that it was loaded for
  double alpha_ = 0;
  int64_t n_pairs_ = 0, bytes_ = 0;
  uint64_t fingerprint_ = 0;
};

}  // namespace mlf
