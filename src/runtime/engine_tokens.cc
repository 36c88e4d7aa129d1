// The steps of an executor: from rows of logits to tokens and responses. Counterparts: engine.h,
// engine.cc.
#include <algorithm>
#include <cmath>

#include "base/error_text.h"
#include "runtime/engine.h"

namespace mlf {
namespace {

double Seconds(SteadyTime from, SteadyTime to) {
  return std::chrono::duration<double>(to - from).count();
}

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

// ---- rows ---------------------------------------------------------------------------------------

/// How row `i` of the rows of `work` is sampled.
RowInput Engine::InputOf(const Work& work, int64_t i) const {
  const Group& group = *work.group;
  const Request& request = group.request;
  const Sequence& s = *work.sequence;
  const int64_t position = s.n_computed + work.n - work.n_rows() + i;  // of the row's token
  RowInput input;
  input.params = &request.sampling;
  if (position + 1 < static_cast<int64_t>(s.tokens.size()) || request.max_new_tokens == 0) {
    const bool known = position + 1 < static_cast<int64_t>(s.tokens.size());
    const int32_t next = known ? s.tokens[position + 1] : 0;
    input.given = next < n_vocab_ ? next : 0;  // a soft token has no probability
    input.n_logprobs = request.prompt_logprobs;
    return input;
  }
  input.seed = s.seed;
  input.counter = static_cast<uint64_t>(s.n_generated);  // forced tokens have theirs too
  input.history = s.tokens;
  if (s.n_generated < request.min_tokens) input.banned = group.banned_ids;
  if (request.logprobs > 0 || group.n_returned() < request.n_sequences()) {
    input.n_logprobs = request.logprobs;
  }
  if (group.beams != nullptr) input.n_candidates = group.beams->candidates_per_beam();
  if (!s.masked || !s.mask_error.empty()) return input;
  input.bitmask = static_cast<const int32_t*>(s.mask->bitmask.data_ptr());
  input.temperature = static_cast<float>(s.mask->temperature);
  if (s.mask->ln_min_p != -HUGE_VAL) input.ln_min_p = static_cast<float>(s.mask->ln_min_p);
  if (!s.mask->forced_tokens.empty()) {
    input.given = static_cast<int32_t>(s.mask->forced_tokens.front());
  }
  return input;
}

void Engine::Sample(const Works& works) {
  inputs_.clear();
  row_counts_.clear();
  for (const Work& work : works) {
    row_counts_.push_back(work.n_rows());
    for (int64_t i = 0; i < work.n_rows(); ++i) inputs_.push_back(InputOf(work, i));
  }
  outputs_.assign(inputs_.size(), RowOutput{});
  if (!inputs_.empty()) {
    SampleRows(logits_.data<float>(), row_width_, n_vocab_, inputs_, outputs_);
  }
}

/// From here on the step has happened: what fails ends its request.
void Engine::Advance(const Works& works) {
  const int64_t n_embd = model_->config().n_embd;
  size_t row = 0;
  int64_t embedding = 0;
  for (size_t i = 0; i < works.size(); ++i) {
    const Work& work = works[i];
    Group& group = *work.group;
    const std::span<RowOutput> rows(outputs_.data() + row, row_counts_[i]);
    row += rows.size();
    const std::span<const float> embeddings(embeddings_.data<float>() + embedding * n_embd,
                                            (embedding_ends_[i] - embedding) * n_embd);
    embedding = embedding_ends_[i];
    if (work.sequence->over) continue;  // ended by another one of its request, in this step
    try {
      TakeEmbeddings(work, embeddings);
      AdvanceWork(work, rows);
    } catch (const std::exception& e) {
      Fail(group, *work.sequence, ErrorText(e));
    }
  }
  scheduler_.RemoveFinished();
}

void Engine::AdvanceWork(const Work& work, std::span<RowOutput> rows) {
  Group& group = *work.group;
  Sequence& s = *work.sequence;
  const bool completes = work.completes();
  const int64_t first_position = s.n_computed + work.n - static_cast<int64_t>(rows.size());
  s.n_computed += work.n;
  if (prefixes_ != nullptr && !group.cache_root.empty()) {
    const auto n = std::min(s.n_computed, group.first_soft_token);
    prefixes_->Put(group.cache_root, s.cursor, std::span(s.tokens).first(n), s.slot);
  }
  if (group.request.prompt_logprobs > 0) TakePromptLogprobs(group, s, first_position, rows);
  if (!group.prompt_done && s.index == 0 && s.n_computed >= group.n_prompt()) PromptDone(group);
  if (!completes || s.over) return;
  if (group.request.pooling) return FinishEmbedding(group, s);
  if (group.request.max_new_tokens == 0) return FinishAllOf(group, FinishReason::kLength);
  if (group.beams == nullptr) return UseRow(group, s, rows.back());
  const auto& beams = group.beam_sequences;
  group.beam_rows.resize(beams.size());
  group.beam_rows[std::find(beams.begin(), beams.end(), &s) - beams.begin()] =
      std::move(rows.back());
  if (++group.n_beam_rows == beams.size()) AdvanceBeams(group);
}

// ---- tokens -------------------------------------------------------------------------------------

void Engine::UseRow(Group& group, Sequence& s, RowOutput& row) {
  const bool masked = std::exchange(s.masked, false);
  if (masked && !s.mask_error.empty()) {
    if (pool_->hurried()) return FinishAllOf(group, FinishReason::kCancelled, s.mask_error);
    return Fail(group, s, s.mask_error);
  }
  if (masked) s.mask_fraction = row.mask_fraction;
  if (!row.error.empty()) return Fail(group, s, row.error);
  std::vector<int64_t> forced;
  if (masked) forced = std::move(s.mask->forced_tokens);
  if (!AcceptToken(group, s, row)) return;
  for (size_t i = 1; i < forced.size(); ++i) {
    RowOutput given;  // no logits were computed for it: the mask left no other
    given.token = static_cast<int32_t>(forced[i]);
    if (!AcceptToken(group, s, given)) return;
  }
  if (!delivery_.Stream(group, s)) {
    FinishAllOf(group, FinishReason::kCancelled,
                "max_pending_responses=" + std::to_string(config_.max_pending_responses) +
                    " responses wait and nobody reads them");
  }
}

/// False when the sequence is over.
bool Engine::AcceptToken(Group& group, Sequence& s, const RowOutput& row) {
  const auto now = std::chrono::steady_clock::now();
  if (!group.first_token) {
    group.first_token = now;
    stats_.time_to_first_token.Add(Seconds(group.arrived, now));
  } else if (s.n_generated > 0) {
    stats_.time_between_tokens.Add(Seconds(s.last_token, now));
  }
  s.last_token = now;
  s.cumulative_logprob += row.logprob;
  ++s.n_scored;
  const Request& request = group.request;
  const bool ends = (!request.ignore_eos && group.vocab->IsEog(row.token)) ||
                    Contains(request.stop_token_ids, row.token);
  if (ends) {
    FinishSequence(group, s, FinishReason::kEndId, "");
    return false;
  }
  s.tokens.push_back(row.token);
  if (s.mask != nullptr) s.mask->tokens.push_back(row.token);
  ++s.n_generated;
  ++stats_.generated_tokens;
  FinishReason reason = delivery_.Accept(s, row, request.logprobs > 0);
  const bool full = static_cast<int64_t>(s.tokens.size()) >= cache_.n_ctx();
  if (reason == FinishReason::kNotFinished && (s.n_generated >= request.max_new_tokens || full)) {
    reason = FinishReason::kLength;
  }
  if (reason != FinishReason::kNotFinished) FinishSequence(group, s, reason, "");
  return !s.over;
}

void Engine::TakePromptLogprobs(Group& group, Sequence& s, int64_t position,
                                std::span<RowOutput> rows) {
  auto& logprobs = s.response.front().prompt_logprobs;
  for (RowOutput& row : rows) {
    ++position;  // a row speaks of the token that comes next
    // Computed again after a pre-emption, they are known already.
    const int64_t next = group.n_prompt_logprobs + 1;
    if (s.index != 0 || position != next || position >= group.n_prompt()) continue;
    logprobs.push_back({row.logprob, std::move(row.best)});
    ++group.n_prompt_logprobs;
  }
}

void Engine::PromptDone(Group& group) {
  group.prompt_done = true;
  stats_.prompt_tokens += group.n_prompt();
  stats_.cached_prompt_tokens += group.cached_tokens;
  if (group.sequences.size() > 1 && group.beams == nullptr) scheduler_.Fork(group);
}

// ---- beams --------------------------------------------------------------------------------------

void Engine::AdvanceBeams(Group& group) {
  std::vector<std::span<const TokenLogprob>> candidates;
  for (const RowOutput& row : group.beam_rows) {
    if (!row.error.empty()) return FinishAllOf(group, FinishReason::kError, row.error);
    candidates.emplace_back(row.candidates);
  }
  const std::vector<BeamStep> steps = group.beams->Advance(candidates);
  group.n_beam_rows = 0;
  if (!group.first_token) {
    group.first_token = std::chrono::steady_clock::now();
    stats_.time_to_first_token.Add(Seconds(group.arrived, *group.first_token));
  }
  stats_.generated_tokens += static_cast<int64_t>(steps.size());
  const auto length = static_cast<int64_t>(group.beam_sequences.front()->tokens.size()) + 1;
  if (steps.empty() || group.beams->Done() || length >= cache_.n_ctx()) {
    return FinishAllOf(group, FinishReason::kLength);
  }
  scheduler_.Branch(group, steps);
}

// ---- embeddings ---------------------------------------------------------------------------------

/// Adds what the step gave of `work`.
void Engine::TakeEmbeddings(const Work& work, std::span<const float> rows) {
  Group& group = *work.group;
  if (!group.request.pooling) return;
  const auto n_embd = static_cast<size_t>(model_->config().n_embd);
  if (work.sequence->n_computed == 0 || !group.pooled) {
    group.pooled.emplace(*group.request.pooling, model_->config().n_embd);
  }
  for (; !rows.empty(); rows = rows.subspan(n_embd)) group.pooled->Add(rows.first(n_embd));
}

void Engine::FinishEmbedding(Group& group, Sequence& s) {
  auto& embedding = s.response.front().embedding;
  embedding.resize(model_->config().n_embd);
  group.pooled->Finish(group.request.normalize, embedding.data());
  FinishSequence(group, s, FinishReason::kLength, "");
}

// ---- the end ------------------------------------------------------------------------------------

void Engine::FinishSequence(Group& group, Sequence& s, FinishReason reason,
                            const std::string& error) {
  if (s.over) return;
  TellEnd(group, s);
  delivery_.Finish(group, s, reason, error);
  scheduler_.ReleaseSequence(s);
  if (group.over()) ++stats_.requests_finished;
}

/// Each sequence that was to be masked gets one last entry, whether it ever had another or not.
void Engine::TellEnd(const Group& group, Sequence& s) {
  if (pool_ == nullptr || !group.request.use_logits_post_processor) return;
  try {
    // A call that was given up may still work on the entry: the end is told in another one.
    auto last = NewMaskEntry(group, s);
    last->tokens.clear();
    if (s.mask != nullptr && s.mask_error.empty()) last->tokens = std::move(s.mask->tokens);
    last->is_final = true;
    pool_->Notify({std::move(last)});
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): the response matters more
  }
  s.mask = nullptr;
}

/// Ends the sequence; and the others of the request where they need it: beams, answers that are
/// ranked, and all of them until the first one has computed the prompt.
void Engine::Fail(Group& group, Sequence& s, const std::string& error) {
  const bool ranked = group.request.n_sequences() > group.n_returned();
  if (group.beams != nullptr || ranked || !group.prompt_done) {
    return FinishAllOf(group, FinishReason::kError, error);
  }
  FinishSequence(group, s, FinishReason::kError, error);
}

void Engine::FinishAllOf(Group& group, FinishReason reason, const std::string& error) {
  for (Sequence& s : group.sequences) FinishSequence(group, s, reason, error);
}

std::shared_ptr<MaskEntry> Engine::NewMaskEntry(const Group& group, const Sequence& s) const {
  struct Memory {
    std::vector<int32_t> words;
    void AllocData(DLTensor* tensor) {
      words.resize(tensor->shape[0]);
      tensor->data = words.data();
    }
    void FreeData(DLTensor*) {}
  };
  auto entry = std::make_shared<MaskEntry>();
  entry->request_id = group.id;
  entry->client_id = group.request.client_id;
  entry->sequence_index = s.index;
  // A sequence that branched off or was there before its first mask has tokens to tell of.
  entry->tokens.assign(s.tokens.begin() + group.n_prompt(), s.tokens.end());
  entry->bitmask = ffi::Tensor::FromNDAlloc(Memory{}, ffi::Shape({(n_vocab_ + 31) / 32}), kI32,
                                            DLDevice{kDLCPU, 0});
  return entry;
}

}  // namespace mlf
