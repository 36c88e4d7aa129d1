// What one forward pass takes: a flat batch of tokens of any mix of sequences, the pages of the
// cache, working memory. Counterpart: forward.cc.
#pragma once
#include <span>
#include <vector>

#include "base/array.h"
#include "base/buffer.h"
#include "model/config.h"

namespace mlf {

class LoraAdapter;

/// Which tokens of a batch go through an adapter: y += scale * B(A x) wherever it has a pair for
/// the weight of y. Several of one token add up in the order in which they stand.
struct LoraRows {
  const LoraAdapter* adapter;
  float scale;       // times the adapter's own
  ArrayView tokens;  // int32 [k], no token twice
  ArrayView
      outputs;  // int32 [j]: rows of the logits that are theirs; undefined when there are none
};

/// Token t of the batch belongs to row rows[t] of the block table and is stored at entry slots[t].
/// `copies` of its keys and values go to other entries too (a token of several sequences).
struct ForwardBatch {
  ArrayView tokens;          // int32 [n]
  ArrayView positions;       // int32 [n]
  ArrayView rows;            // int32 [n]
  ArrayView slots;           // int64 [n]
  ArrayView block_table;     // int32 [rows, max_pages], −1 ends a row
  ArrayView page_positions;  // int32 [pages, kPageSize]
  ArrayView copy_tokens;     // int32 [copies], undefined when there are none
  ArrayView copy_slots;      // int64 [copies]
  ArrayView outputs;         // int32 [n_outputs]: tokens whose logits are wanted

  // What few batches have; undefined and empty else.
  ArrayView soft_tokens;  // int32 [m]: tokens whose embedding is given, whatever their id
  ArrayView soft_rows;    // float32 [m, n_embd]: these embeddings
  ArrayView windows;      // int32 [n]: token t at p sees positions > p − windows[t], 0: all ...
  ArrayView sinks;        // int32 [n]: ... and those < sinks[t]; undefined: none
  ArrayView embedding_tokens;  // int32 [e]: tokens whose last hidden row, normed, is wanted
  ArrayView embeddings;        // float32 [e, n_embd], written: these rows
  std::span<const LoraRows> lora;

  int64_t size() const { return tokens.size(0); }
  int64_t n_outputs() const { return outputs.size(0); }
};

/// Pages of one layer, as kernels/attention.h lays them out.
struct KvLayer {
  ArrayView k, v;
};

/// How positions turn into angles; a context may override what the file says.
struct RopeSettings {
  double base, freq_scale;
};

/// Working memory of a forward pass of up to `max_tokens` tokens. Pages are committed as they are
/// used.
class Workspace {
 public:
  Workspace(const ModelConfig& config, int64_t max_tokens);

  ArrayView Hidden(int64_t tokens) const { return Rows(hidden_, tokens, config_.n_embd); }
  ArrayView Normed(int64_t tokens) const { return Rows(normed_, tokens, config_.n_embd); }
  ArrayView Delta(int64_t tokens) const { return Rows(delta_, tokens, config_.n_embd); }
  ArrayView Query(int64_t tokens) const { return Heads(query_, tokens, config_.n_heads); }
  ArrayView Key(int64_t tokens) const { return Heads(key_, tokens, config_.n_kv_heads); }
  ArrayView Value(int64_t tokens) const { return Heads(value_, tokens, config_.n_kv_heads); }
  ArrayView Attended(int64_t tokens) const { return Heads(attended_, tokens, config_.n_heads); }
  ArrayView Gate(int64_t tokens) const { return Rows(gate_, tokens, config_.n_ff); }
  ArrayView Up(int64_t tokens) const { return Rows(up_, tokens, config_.n_ff); }
  ArrayView CosSin(int64_t tokens) const;  // [tokens, 2, rope_dims / 2]
  /// Room for the rounded form of [tokens, cols] activations (kernels/linear.h).
  ArrayView Quantized(int64_t tokens, int64_t cols, int planes) const;
  /// Keys and values of tokens that go to several sequences.
  ArrayView CopiedKey(int64_t copies) const {
    return Heads(copied_key_, copies, config_.n_kv_heads);
  }
  ArrayView CopiedValue(int64_t copies) const {
    return Heads(copied_value_, copies, config_.n_kv_heads);
  }
  // Of tokens that go through an adapter: what it reads, A times that, and B times A times that.
  ArrayView AdapterInput(int64_t tokens, int64_t cols) const {
    return Rows(adapter_input_, tokens, cols);
  }
  ArrayView AdapterLow(int64_t tokens, int64_t rank) const {
    return Rows(adapter_low_, tokens, rank);
  }
  ArrayView AdapterOutput(int64_t tokens, int64_t cols) const {
    return Rows(adapter_output_, tokens, cols);
  }
  ArrayView AdapterQuantized(int64_t tokens, int64_t cols, int planes) const;
  /// How many tokens AdapterOutput has room for, of so many columns: all unless these are logits.
  int64_t AdapterTokens(int64_t cols) const;

 private:
  static ArrayView Rows(const Buffer& buffer, int64_t tokens, int64_t cols) {
    return {buffer.data(), kF32, {tokens, cols}};
  }
  ArrayView Heads(const Buffer& buffer, int64_t tokens, int64_t heads) const {
    return {buffer.data(), kF32, {tokens, heads, config_.head_dim}};
  }

  ModelConfig config_;
  Buffer hidden_, normed_, delta_, query_, key_, value_, attended_, gate_, up_, cos_sin_,
      quantized_;
  Buffer copied_key_, copied_value_;
  Buffer adapter_input_, adapter_low_, adapter_output_, adapter_quantized_;
};

}  // namespace mlf
