// One user's state over a model: sequences in a paged cache, decode, logits. Counterpart:
// context.cc.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/lora.h"
#include "model/model.h"
#include "runtime/batch.h"
#include "runtime/exclusive.h"
#include "runtime/kv_cache.h"
#include "runtime/step.h"

namespace mlf {

/// An adapter that all tokens of a context go through.
struct AdapterUse {
  std::shared_ptr<const LoraAdapter> adapter;
  double scale = 1;  // times the adapter's own
};

struct ContextOptions {
  int64_t n_ctx = 0;      // entries of a sequence; 0: the model's training length
  int64_t n_seq_max = 1;  // sequences 0 … n_seq_max − 1
  int64_t n_batch = 512;  // tokens of one forward pass; longer batches run as several
  DLDataType kv_dtype = kF16;
  double rope_freq_base = 0, rope_freq_scale = 0;  // 0: the model's
  bool embeddings = false;                         // keep the hidden rows of a decode
  std::vector<AdapterUse> lora{};                  // in the order in which they are added
};

/// Used from one thread at a time: a call that comes while another runs throws RuntimeError and
/// changes nothing.
class Context {
 public:
  Context(std::shared_ptr<const Model> model, const ContextOptions& options);

  /// Computes the batch and appends it to its sequences. On any exception (a bad token, a full
  /// cache, Ctrl-C) the sequences are as before and the logits of the last call are gone.
  /// ValueError: empty batch, token, sequence or position out of range, position not after the
  /// sequence's last, more entries than n_ctx. RuntimeError: no free page.
  void Decode(const Batch& batch);
  /// Tokens of sequence 0 at its next positions, logits of the last.
  void Decode(std::span<const int64_t> tokens);

  /// float32 [n_outputs, n_vocab] in the order of the batch. Whoever holds the tensor keeps the
  /// values: a decode that finds it held writes to other memory.
  ffi::Tensor logits() const;
  /// float32 [tokens of the batch, n_embd]: the last hidden row of each token, normed; held in the
  /// same way. ValueError without options.embeddings.
  ffi::Tensor embeddings() const;

  void Remove(int64_t seq, int64_t p0, std::optional<int64_t> p1);
  void Copy(int64_t src, int64_t dst, int64_t p0, std::optional<int64_t> p1);
  void Keep(int64_t seq);
  void Shift(int64_t seq, int64_t p0, std::optional<int64_t> p1, int64_t delta);
  std::optional<std::pair<int32_t, int32_t>> Positions(int64_t seq) const;  // first and last
  int64_t Count(int64_t seq) const;                                         // entries held
  void Clear();

  /// Positions, keys and values of one sequence or of all, pages that sequences share once; so a
  /// state of all loads into any context of the same size. Load: ValueError when the file is not a
  /// state of this model, rope settings, adapters and kv_dtype or does not fit n_ctx or n_seq_max,
  /// RuntimeError when other sequences hold the pages that it needs; either way nothing has
  /// changed.
  void SaveState(const std::string& path, std::optional<int64_t> seq) const;
  void LoadState(const std::string& path, std::optional<int64_t> seq);

  const Model& model() const { return *model_; }
  int64_t n_ctx() const { return cache_.n_ctx(); }
  int64_t n_seq_max() const { return cache_.n_seq_max(); }

 private:
  void DecodeExclusive(const Batch& batch);
  /// Checks everything; returns how many entries each sequence gets.
  std::map<int64_t, int64_t> Validate(const Batch& batch) const;
  void CheckToken(const BatchToken& token, size_t index) const;
  void AllocateOutputs(const Batch& batch);
  /// Computes tokens [begin, end) of a batch; `first_output` is their first row of logits.
  void Run(const Network& network, const Batch& batch, int64_t begin, int64_t end,
           int64_t first_output);
  void AddToStep(const BatchToken& token);
  ExclusiveUse Use() const;
  void CheckSequence(int64_t seq, const char* argument = "sequence") const;
  std::pair<int32_t, int32_t> CheckRange(int64_t p0, std::optional<int64_t> p1) const;

  std::shared_ptr<const Model> model_;
  ContextOptions options_;
  RopeSettings rope_;
  KvCache cache_;
  Workspace workspace_;
  Step step_;
  std::optional<ffi::Tensor> logits_, embeddings_;
  mutable std::atomic_flag in_use_ = ATOMIC_FLAG_INIT;
};

/// Row `index` of a context's logits, which the caller holds; negative counts from the end.
/// IndexError when there is none.
std::span<const float> LogitsRow(const ffi::Tensor& logits, int64_t index);

}  // namespace mlf
