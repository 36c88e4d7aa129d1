// The arrays of one forward pass. Counterpart: step.h.
#include "runtime/step.h"

#include <algorithm>

namespace mlf {
namespace {

template <typename T>
ArrayView View(std::vector<T>& values, DLDataType dtype) {
  return {values.data(), dtype, {static_cast<int64_t>(values.size())}};
}

}  // namespace

void Step::Clear() {
  tokens_.clear();
  positions_.clear();
  rows_.clear();
  outputs_.clear();
  copy_tokens_.clear();
  slots_.clear();
  copy_slots_.clear();
  row_sequences_.clear();
  soft_tokens_.clear();
  soft_rows_.clear();
  windows_.clear();
  sinks_.clear();
  embedding_tokens_.clear();
  n_adapted_ = 0;
}

int32_t Step::RowOf(int64_t seq) {
  // Tokens of a sequence mostly follow each other.
  const auto found = std::find(row_sequences_.rbegin(), row_sequences_.rend(), seq);
  if (found != row_sequences_.rend()) {
    return static_cast<int32_t>(row_sequences_.rend() - found) - 1;
  }
  row_sequences_.push_back(seq);
  return static_cast<int32_t>(row_sequences_.size()) - 1;
}

void Step::Add(KvCache& cache, int64_t seq, int32_t token, int32_t position, bool output) {
  slots_.push_back(cache.Append(seq, position));
  if (output) outputs_.push_back(static_cast<int32_t>(tokens_.size()));
  tokens_.push_back(token);
  positions_.push_back(position);
  rows_.push_back(RowOf(seq));
  last_place_ = 0;
}

void Step::AlsoIn(KvCache& cache, int64_t seq, int32_t position) {
  copy_slots_.push_back(cache.Append(seq, position));
  copy_tokens_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
}

void Step::SetEmbedding(std::span<const float> row) {
  soft_tokens_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
  soft_rows_.insert(soft_rows_.end(), row.begin(), row.end());
}

void Step::SetView(int32_t window, int32_t sinks) {
  windows_.resize(tokens_.size());
  sinks_.resize(tokens_.size());
  windows_.back() = window;
  sinks_.back() = sinks;
}

void Step::WantEmbedding() {
  embedding_tokens_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
}

Step::Adapted& Step::AdaptedBy(const LoraAdapter& adapter, float scale, int32_t place) {
  // Tokens with the same adapters mostly follow each other.
  for (size_t i = n_adapted_; i-- > 0;) {
    Adapted& a = adapted_[i];
    if (a.adapter == &adapter && a.scale == scale && a.place == place) return a;
  }
  if (n_adapted_ == adapted_.size()) adapted_.emplace_back();
  Adapted& added = adapted_[n_adapted_++];
  added.adapter = &adapter;
  added.scale = scale;
  added.place = place;
  added.tokens.clear();
  added.outputs.clear();
  return added;
}

void Step::Adapt(const LoraAdapter& adapter, float scale) {
  Adapted& adapted = AdaptedBy(adapter, scale, last_place_++);
  const auto token = static_cast<int32_t>(tokens_.size()) - 1;
  adapted.tokens.push_back(token);
  if (outputs_.empty() || outputs_.back() != token) return;
  adapted.outputs.push_back(static_cast<int32_t>(outputs_.size()) - 1);
}

void Step::FillBlockTable(const KvCache& cache) {
  max_pages_ = 0;
  for (const int64_t seq : row_sequences_) {
    max_pages_ = std::max(max_pages_, static_cast<int64_t>(cache.pages(seq).size()));
  }
  block_table_.assign(row_sequences_.size() * max_pages_, -1);
  for (size_t row = 0; row < row_sequences_.size(); ++row) {
    const std::vector<int32_t>& pages = cache.pages(row_sequences_[row]);
    std::copy(pages.begin(), pages.end(), block_table_.begin() + row * max_pages_);
  }
}

void Step::AddRareViews(ForwardBatch* batch) {
  if (!soft_tokens_.empty()) {
    const auto n = static_cast<int64_t>(soft_tokens_.size());
    batch->soft_tokens = View(soft_tokens_, kI32);
    batch->soft_rows = {soft_rows_.data(), kF32, {n, static_cast<int64_t>(soft_rows_.size()) / n}};
  }
  if (!windows_.empty()) {
    windows_.resize(tokens_.size());
    sinks_.resize(tokens_.size());
    batch->windows = View(windows_, kI32);
    batch->sinks = View(sinks_, kI32);
  }
  if (!embedding_tokens_.empty()) batch->embedding_tokens = View(embedding_tokens_, kI32);
  // By place, so that what a token's adapters add comes in the order in which they were given,
  // whatever the other tokens have.
  const auto end = adapted_.begin() + static_cast<int64_t>(n_adapted_);
  std::stable_sort(adapted_.begin(), end,
                   [](const Adapted& a, const Adapted& b) { return a.place < b.place; });
  lora_.clear();
  for (auto a = adapted_.begin(); a != end; ++a) {
    lora_.push_back({a->adapter, a->scale, View(a->tokens, kI32), {}});
    if (!a->outputs.empty()) lora_.back().outputs = View(a->outputs, kI32);
  }
  batch->lora = lora_;
}

ForwardBatch Step::Views(const KvCache& cache) {
  FillBlockTable(cache);
  ForwardBatch batch;
  batch.tokens = View(tokens_, kI32);
  batch.positions = View(positions_, kI32);
  batch.rows = View(rows_, kI32);
  batch.slots = View(slots_, kI64);
  batch.block_table = {
      block_table_.data(), kI32, {static_cast<int64_t>(row_sequences_.size()), max_pages_}};
  batch.page_positions = cache.page_positions();
  batch.outputs = View(outputs_, kI32);
  if (!copy_tokens_.empty()) {
    batch.copy_tokens = View(copy_tokens_, kI32);
    batch.copy_slots = View(copy_slots_, kI64);
  }
  AddRareViews(&batch);
  return batch;
}

}  // namespace mlf
