// The arrays of one forward pass, and the cache entries that its tokens take. Counterpart: step.cc.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "model/forward.h"
#include "runtime/kv_cache.h"

namespace mlf {

/// Kept from pass to pass, so that a pass takes no memory once the arrays have grown.
class Step {
 public:
  void Clear();

  /// The next token, which sees and extends `seq`; `output`: its logits are wanted. RuntimeError
  /// when no page is free.
  void Add(KvCache& cache, int64_t seq, int32_t token, int32_t position, bool output);
  /// Stores the keys and values of the token that was added last in `seq` too.
  void AlsoIn(KvCache& cache, int64_t seq, int32_t position);

  // Of the token that was added last:

  /// Its embedding is `row` (n_embd floats, copied) instead of that of its id.
  void SetEmbedding(std::span<const float> row);
  /// It sees only the last `window` positions, its own among them (0: all), and those < sinks.
  void SetView(int32_t window, int32_t sinks);
  /// It goes through `adapter`, which must live as long as the batch, after those given before.
  void Adapt(const LoraAdapter& adapter, float scale);
  /// Its last hidden row is wanted, as the next row of the batch's `embeddings`.
  void WantEmbedding();

  /// Valid until the next call of a method that is not const. Where n_embeddings() > 0, memory for
  /// `embeddings` is the caller's to set.
  ForwardBatch Views(const KvCache& cache);

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t n_outputs() const { return static_cast<int64_t>(outputs_.size()); }
  int64_t n_embeddings() const { return static_cast<int64_t>(embedding_tokens_.size()); }

 private:
  /// Tokens that have an adapter at the same place of their lists.
  struct Adapted {
    const LoraAdapter* adapter;
    float scale;
    int32_t place;
    std::vector<int32_t> tokens, outputs;
  };

  int32_t RowOf(int64_t seq);
  void FillBlockTable(const KvCache& cache);
  Adapted& AdaptedBy(const LoraAdapter& adapter, float scale, int32_t place);
  void AddRareViews(ForwardBatch* batch);

  std::vector<int32_t> tokens_, positions_, rows_, outputs_, copy_tokens_, block_table_;
  std::vector<int64_t> slots_, copy_slots_;
  std::vector<int64_t> row_sequences_;  // the sequence of each row of the block table
  int64_t max_pages_ = 0;
  // What few batches have: empty else, windows and sinks as long as the batch or empty.
  std::vector<int32_t> soft_tokens_, windows_, sinks_, embedding_tokens_;
  std::vector<float> soft_rows_;
  std::vector<Adapted> adapted_;  // the first n_adapted_ are in use; the others keep their memory
  size_t n_adapted_ = 0;
  int32_t last_place_ = 0;  // adapters of the token that was added last
  std::vector<LoraRows> lora_;
};

}  // namespace mlf
