// One user's state over a model. Counterpart: context.h; saved states are in state_file.cc.
#include "runtime/context.h"

#include <algorithm>
#include <climits>
#include <cmath>

#include "base/thread_pool.h"
#include "kernels/rope.h"
#include "runtime/exclusive.h"
#include "runtime/row_tensor.h"

namespace mlf {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 30, kMaxSequences = 65536,
                  kMaxBatch = int64_t{1} << 20;

ContextOptions Checked(ContextOptions options, const Model& model) {
  const auto check = [](const char* name, int64_t value, int64_t max) {
    if (value >= 1 && value <= max) return;
    TVM_FFI_THROW(ValueError) << "context: " << name << " is " << value << ", expected 1 to "
                              << max;
  };
  if (options.n_ctx == 0) options.n_ctx = model.config().n_ctx_train;
  check("n_ctx", options.n_ctx, kMaxContext);
  check("n_seq_max", options.n_seq_max, kMaxSequences);
  check("n_batch", options.n_batch, kMaxBatch);
  const auto check_rope = [](const char* name, double value) {
    if (std::isfinite(value) && value >= 0) return;
    TVM_FFI_THROW(ValueError) << "context: " << name << " is " << value
                              << ", expected a number > 0, or 0 for the model's";
  };
  check_rope("rope_freq_base", options.rope_freq_base);
  check_rope("rope_freq_scale", options.rope_freq_scale);
  for (const AdapterUse& use : options.lora) {
    use.adapter->CheckFits(model);
    if (std::isfinite(static_cast<float>(use.scale))) continue;
    TVM_FFI_THROW(ValueError) << "context: the scale of an adapter in lora is " << use.scale
                              << ", expected a finite number";
  }
  return options;
}

void AllocateRows(const char* what, int64_t rows, int64_t cols, std::optional<ffi::Tensor>* kept) {
  // Written again only when nobody else looks at it: a row that a caller holds never changes under
  // its hands.
  if (*kept && (*kept)->use_count() == 1 && (*kept)->size(0) == rows) {
    std::atomic_thread_fence(std::memory_order_acquire);  // after the last read of who let it go
    return;
  }
  *kept = NewRows(what, rows, cols);
}

}  // namespace

Context::Context(std::shared_ptr<const Model> model, const ContextOptions& options)
    : model_(std::move(model)),
      options_(Checked(options, *model_)),
      rope_{
          options.rope_freq_base > 0 ? options.rope_freq_base : model_->config().rope_base,
          options.rope_freq_scale > 0 ? options.rope_freq_scale : model_->config().rope_freq_scale},
      cache_(model_->config(), options_.n_ctx, options_.n_seq_max, options_.kv_dtype),
      workspace_(model_->config(), std::max(options_.n_batch, options_.n_seq_max)) {
  model_->CheckOpen();
}

ExclusiveUse Context::Use() const {
  model_->CheckOpen();
  return {in_use_, "Context"};
}

void Context::Decode(const Batch& batch) {
  const ExclusiveUse exclusive = Use();
  DecodeExclusive(batch);
}

void Context::Decode(std::span<const int64_t> tokens) {
  const ExclusiveUse exclusive = Use();
  Batch batch;
  batch.tokens.reserve(tokens.size());
  int64_t position = cache_.last_position(0);
  for (int64_t token : tokens) batch.tokens.push_back({token, ++position, {0}, false});
  if (!batch.tokens.empty()) batch.tokens.back().logits = true;
  DecodeExclusive(batch);
}

void Context::DecodeExclusive(const Batch& batch) {
  const ThreadLimit limit(model_->n_threads());
  const auto network = model_->network();  // kept for the pass even if somebody closes the model
  const std::map<int64_t, int64_t> added = Validate(batch);
  std::map<int64_t, int64_t> count_before;
  for (const auto& [seq, n] : added) count_before[seq] = cache_.count(seq);
  try {
    AllocateOutputs(batch);
    const std::vector<BatchToken>& all = batch.tokens;
    int64_t first_output = 0;
    for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
      for (int64_t entries = 0; end < all.size(); ++end) {  // a pass stores at most n_batch entries
        entries += static_cast<int64_t>(all[end].sequences.size());
        if (end > begin && entries > options_.n_batch) break;
      }
      Run(*network, batch, begin, end, first_output);
      first_output += step_.n_outputs();
    }
  } catch (...) {
    for (const auto& [seq, count] : count_before) cache_.Truncate(seq, cache_.count(seq) - count);
    logits_.reset();
    embeddings_.reset();
    throw;
  }
}

void Context::AllocateOutputs(const Batch& batch) {
  int64_t n_outputs = 0;
  for (const BatchToken& t : batch.tokens) n_outputs += t.logits ? 1 : 0;
  AllocateRows("logits", n_outputs, model_->config().n_vocab, &logits_);
  if (!options_.embeddings) return;
  AllocateRows("embeddings", static_cast<int64_t>(batch.tokens.size()), model_->config().n_embd,
               &embeddings_);
}

std::map<int64_t, int64_t> Context::Validate(const Batch& batch) const {
  if (batch.tokens.empty()) TVM_FFI_THROW(ValueError) << "decode: the batch is empty";
  std::map<int64_t, int64_t> added, last;
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    const BatchToken& t = batch.tokens[i];
    CheckToken(t, i);
    for (int64_t seq : t.sequences) {
      CheckSequence(seq);
      const int64_t before = last.emplace(seq, cache_.last_position(seq)).first->second;
      if (t.position <= before) {
        TVM_FFI_THROW(ValueError) << "decode: position " << t.position << " at index " << i
                                  << " is not after " << before << ", the last of sequence " << seq;
      }
      last[seq] = t.position;
      ++added[seq];
    }
  }
  for (const auto& [seq, n] : added) {
    if (cache_.count(seq) + n <= n_ctx()) continue;
    TVM_FFI_THROW(ValueError) << "decode: sequence " << seq << " would hold "
                              << cache_.count(seq) + n << " tokens, more than n_ctx=" << n_ctx();
  }
  return added;
}

void Context::CheckToken(const BatchToken& t, size_t index) const {
  const int64_t n_vocab = model_->config().n_vocab;
  if (t.token < 0 || t.token >= n_vocab) {
    TVM_FFI_THROW(ValueError) << "decode: token " << t.token << " at index " << index
                              << " is out of range, expected 0 to " << n_vocab - 1;
  }
  if (t.position < 0 || t.position >= INT_MAX) {
    TVM_FFI_THROW(ValueError) << "decode: position " << t.position << " at index " << index
                              << " is out of range";
  }
  if (t.sequences.empty()) {
    TVM_FFI_THROW(ValueError) << "decode: the token at index " << index << " has no sequence";
  }
}

void Context::AddToStep(const BatchToken& t) {
  const auto token = static_cast<int32_t>(t.token), position = static_cast<int32_t>(t.position);
  step_.Add(cache_, t.sequences[0], token, position, t.logits);
  for (size_t s = 1; s < t.sequences.size(); ++s) step_.AlsoIn(cache_, t.sequences[s], position);
  for (const AdapterUse& use : options_.lora) {
    step_.Adapt(*use.adapter, static_cast<float>(use.scale));
  }
  if (options_.embeddings) step_.WantEmbedding();
}

void Context::Run(const Network& network, const Batch& batch, int64_t begin, int64_t end,
                  int64_t first_output) {
  step_.Clear();
  for (int64_t i = begin; i < end; ++i) AddToStep(batch.tokens[i]);
  ForwardBatch forward = step_.Views(cache_);
  const int64_t n_vocab = model_->config().n_vocab, n_embd = model_->config().n_embd;
  if (options_.embeddings) {
    auto* rows = static_cast<float*>(embeddings_->data_ptr()) + begin * n_embd;
    forward.embeddings = ArrayView(rows, kF32, {end - begin, n_embd});
  }
  auto* rows = static_cast<float*>(logits_->data_ptr()) + first_output * n_vocab;
  network.Forward(forward, cache_.layers(), workspace_, rope_,
                  ArrayView(rows, kF32, {forward.n_outputs(), n_vocab}));
}

ffi::Tensor Context::logits() const {
  const ExclusiveUse exclusive = Use();
  if (!logits_)
    TVM_FFI_THROW(RuntimeError)
        << "logits: nothing has been decoded yet, or the last decode failed";
  return *logits_;
}

ffi::Tensor Context::embeddings() const {
  const ExclusiveUse exclusive = Use();
  if (!options_.embeddings)
    TVM_FFI_THROW(ValueError) << "embeddings: this context was made without embeddings=True";
  if (!embeddings_)
    TVM_FFI_THROW(RuntimeError)
        << "embeddings: nothing has been decoded yet, or the last decode failed";
  return *embeddings_;
}

std::span<const float> LogitsRow(const ffi::Tensor& logits, int64_t index) {
  const int64_t rows = logits.size(0), n_vocab = logits.size(1),
                row = index < 0 ? index + rows : index;
  if (row < 0 || row >= rows) {
    TVM_FFI_THROW(IndexError) << "logits: index " << index
                              << " is out of range: the last decode gave " << rows;
  }
  return {static_cast<const float*>(logits.data_ptr()) + row * n_vocab,
          static_cast<size_t>(n_vocab)};
}

void Context::CheckSequence(int64_t seq, const char* argument) const {
  if (seq >= 0 && seq < n_seq_max()) return;
  TVM_FFI_THROW(ValueError) << argument << " " << seq << " is out of range, expected 0 to "
                            << n_seq_max() - 1 << " (n_seq_max=" << n_seq_max() << ")";
}

std::pair<int32_t, int32_t> Context::CheckRange(int64_t p0, std::optional<int64_t> p1) const {
  const int64_t end = p1.value_or(INT_MAX);
  if (p0 < 0 || p0 > INT_MAX || end < p0 || end > INT_MAX) {
    TVM_FFI_THROW(ValueError) << "positions " << p0 << " to " << end
                              << " are not a range of positions";
  }
  return {static_cast<int32_t>(p0), static_cast<int32_t>(end)};
}

void Context::Remove(int64_t seq, int64_t p0, std::optional<int64_t> p1) {
  const ExclusiveUse exclusive = Use();
  CheckSequence(seq);
  const auto [begin, end] = CheckRange(p0, p1);
  cache_.Remove(seq, begin, end);
}

void Context::Copy(int64_t src, int64_t dst, int64_t p0, std::optional<int64_t> p1) {
  const ExclusiveUse exclusive = Use();
  CheckSequence(src, "src");
  CheckSequence(dst, "dst");
  const auto [begin, end] = CheckRange(p0, p1);
  if (src == dst) return;
  int64_t first = INT_MAX, count = 0;
  for (const CacheEntry& entry : cache_.Entries(src)) {
    if (entry.position < begin || entry.position >= end) continue;
    first = std::min<int64_t>(first, entry.position);
    ++count;
  }
  if (count > 0 && first <= cache_.last_position(dst)) {
    TVM_FFI_THROW(ValueError) << "seq_copy: position " << first << " of sequence " << src
                              << " is not after " << cache_.last_position(dst)
                              << ", the last of sequence " << dst;
  }
  if (cache_.count(dst) + count > n_ctx()) {
    TVM_FFI_THROW(ValueError) << "seq_copy: sequence " << dst << " would hold "
                              << cache_.count(dst) + count
                              << " tokens, more than n_ctx=" << n_ctx();
  }
  cache_.Copy(src, dst, begin, end);
}

void Context::Keep(int64_t seq) {
  const ExclusiveUse exclusive = Use();
  CheckSequence(seq);
  for (int64_t other = 0; other < n_seq_max(); ++other) {
    if (other != seq) cache_.Clear(other);
  }
}

void Context::Shift(int64_t seq, int64_t p0, std::optional<int64_t> p1, int64_t delta) {
  const ExclusiveUse exclusive = Use();
  CheckSequence(seq);
  const auto [begin, end] = CheckRange(p0, p1);
  if (delta <= -INT_MAX || delta >= INT_MAX)
    TVM_FFI_THROW(ValueError) << "seq_shift: delta " << delta << " is out of range";
  const auto network = model_->network();
  int32_t turn = static_cast<int32_t>(delta);
  const ArrayView cos_sin = workspace_.CosSin(1);
  rope_angles_kernel(cos_sin.device(), cos_sin, ArrayView(&turn, kI32, {1}),
                     network->freq_factors(), rope_.base, rope_.freq_scale);
  cache_.Shift(seq, begin, end, turn, cos_sin, model_->config().rope_interleaved);
}

std::optional<std::pair<int32_t, int32_t>> Context::Positions(int64_t seq) const {
  const ExclusiveUse exclusive = Use();
  CheckSequence(seq);
  return cache_.Range(seq);
}

int64_t Context::Count(int64_t seq) const {
  const ExclusiveUse exclusive = Use();
  CheckSequence(seq);
  return cache_.count(seq);
}

void Context::Clear() {
  const ExclusiveUse exclusive = Use();
  for (int64_t seq = 0; seq < n_seq_max(); ++seq) cache_.Clear(seq);
  logits_.reset();
  embeddings_.reset();
}

}  // namespace mlf
