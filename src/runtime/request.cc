// Checks of requests. Counterpart: request.h.
#include "runtime/request.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <cmath>

namespace mlf {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 30;
constexpr int64_t kMaxAlternatives = 100, kMaxStops = 64, kMaxStopBytes = 4096;

template <typename T>
void That(bool ok, const char* field, const T& value, const std::string& expected) {
  if (ok) return;
  TVM_FFI_THROW(ValueError) << "request: " << field << " is " << value << ", expected " << expected;
}

void Between(const char* field, int64_t value, int64_t low, int64_t high) {
  That(value >= low && value <= high, field, value,
       std::to_string(low) + " to " + std::to_string(high));
}

void CheckMilliseconds(const char* field, const std::optional<double>& value) {
  if (value) That(std::isfinite(*value) && *value >= 0, field, *value, "a time >= 0 or None");
}

void CheckTable(const Request& r, int64_t n_embd) {
  if (r.prompt_table.empty()) return;
  That(r.prompt_table_cols == n_embd, "the width of prompt_table", r.prompt_table_cols,
       "n_embd=" + std::to_string(n_embd));
  const auto begin = r.prompt_table.begin(), end = r.prompt_table.end();
  const auto bad = std::find_if(begin, end, [](float v) { return !std::isfinite(v); });
  if (bad == end) return;
  TVM_FFI_THROW(ValueError) << "request: prompt_table has " << *bad << " in row "
                            << (bad - begin) / n_embd << ", expected finite numbers";
}

void CheckTokens(const Request& r, const RequestLimits& limits) {
  if (r.tokens.empty()) TVM_FFI_THROW(ValueError) << "request: tokens is empty";
  const int64_t table_rows =
      r.prompt_table.empty() ? 0 : static_cast<int64_t>(r.prompt_table.size()) / limits.n_embd;
  const int64_t n_ids = limits.n_vocab + table_rows;
  for (size_t i = 0; i < r.tokens.size(); ++i) {
    if (r.tokens[i] >= 0 && r.tokens[i] < n_ids) continue;
    TVM_FFI_THROW(ValueError) << "request: token " << r.tokens[i] << " at index " << i
                              << " is out of range, expected 0 to " << n_ids - 1
                              << (table_rows > 0 ? " (rows of prompt_table included)" : "");
  }
  for (const int32_t id : r.stop_token_ids) {
    That(id >= 0 && id < limits.n_vocab, "a stop_token_id", id, "a token of the vocabulary");
  }
  const auto n_tokens = static_cast<int64_t>(r.tokens.size());
  const int64_t room = limits.n_ctx - (!r.pooling && r.max_new_tokens > 0 ? 1 : 0);
  That(n_tokens <= room, "the length of tokens", n_tokens,
       "at most " + std::to_string(room) + " for a context of " + std::to_string(limits.n_ctx));
  That(limits.max_chunk == 0 || n_tokens <= limits.max_chunk, "the length of tokens", n_tokens,
       "at most max_num_tokens=" + std::to_string(limits.max_chunk) + " without chunked prefill");
}

void CheckStops(const Request& r) {
  Between("the number of stop_words", static_cast<int64_t>(r.stop_words.size()), 0, kMaxStops);
  Between("the number of stop_token_ids", static_cast<int64_t>(r.stop_token_ids.size()), 0,
          kMaxAlternatives);
  for (const std::string& word : r.stop_words) {
    Between("the bytes of a stop word", static_cast<int64_t>(word.size()), 1, kMaxStopBytes);
  }
}

void CheckNames(const Request& r) {
  constexpr auto kMax = static_cast<int64_t>(kMaxNameBytes);
  Between("the bytes of cache_salt", static_cast<int64_t>(r.cache_salt.size()), 0, kMax);
  Between("the bytes of lora", static_cast<int64_t>(r.lora.size()), 0, kMax);
}

[[noreturn]] void Refuse(const char* what) { TVM_FFI_THROW(ValueError) << "request: " << what; }

/// An embedding is one vector of one prompt.
void CheckEmbedding(const Request& r) {
  if (!r.pooling) return;
  if (r.streaming) Refuse("an embedding (pooling) cannot stream");
  if (r.logprobs > 0) Refuse("an embedding (pooling) has no logprobs");
  if (!r.stop_words.empty()) Refuse("an embedding (pooling) takes no stop_words");
  if (!r.stop_token_ids.empty()) Refuse("an embedding (pooling) takes no stop_token_ids");
  if (r.min_tokens > 0) Refuse("an embedding (pooling) takes no min_tokens");
  if (r.use_logits_post_processor) Refuse("an embedding (pooling) takes no logits post-processor");
  Between("num_return_sequences with pooling", r.num_return_sequences, 1, 1);
  Between("best_of with pooling", r.best_of, 0, 1);
  Between("beam_width with pooling", r.beam_width, 1, 1);
}

void CheckSequences(const Request& r, const RequestLimits& limits) {
  const int64_t max_sequences = limits.max_sequences;
  Between("num_return_sequences", r.num_return_sequences, 1, max_sequences);
  if (r.best_of != 0) Between("best_of", r.best_of, r.num_return_sequences, max_sequences);
  Between("beam_width", r.beam_width, 1, std::min(kMaxBeamWidth, max_sequences));
  That(std::isfinite(r.length_penalty), "length_penalty", r.length_penalty, "a finite number");
  const bool ranked = r.beam_width > 1 || r.best_of > r.num_return_sequences;
  if (ranked && r.streaming) Refuse("best_of and beam search rank whole answers and cannot stream");
  if (r.beam_width == 1) {
    if (r.length_penalty != 1) Refuse("length_penalty is of beam search (beam_width)");
    return;
  }
  const SamplingParams& s = r.sampling;
  if (s.top_k || s.top_p || s.min_p || s.typical_p) {
    Refuse("beam search draws nothing and takes no top_k, top_p, min_p or typical_p");
  }
  Between("max_new_tokens with beam_width", r.max_new_tokens, 1, kMaxTokens);
  That(limits.max_tokens == 0 || r.beam_width <= limits.max_tokens, "beam_width", r.beam_width,
       "at most max_num_tokens=" + std::to_string(limits.max_tokens) +
           ", since beams advance in one step");
  if (r.best_of != 0) Refuse("best_of and beam_width exclude each other");
  if (r.use_logits_post_processor) Refuse("beam search takes no logits post-processor");
  if (!r.stop_words.empty()) Refuse("beam search takes stop_token_ids, but no stop_words");
  if (r.logprobs > 0) Refuse("beam search gives cumulative_logprob, but no logprobs per token");
  That(r.num_return_sequences <= r.beam_width, "num_return_sequences", r.num_return_sequences,
       "at most beam_width=" + std::to_string(r.beam_width));
}

}  // namespace

int64_t Request::n_sequences() const {
  if (pooling) return 1;
  if (beam_width > 1) return beam_width;
  return std::max(best_of, num_return_sequences);
}

void Check(const Request& r, const RequestLimits& limits) {
  CheckTable(r, limits.n_embd);
  CheckTokens(r, limits);
  CheckStops(r);
  CheckNames(r);
  r.sampling.Check(limits.n_vocab);
  Between("max_new_tokens", r.max_new_tokens, 0, kMaxTokens);
  Between("min_tokens", r.min_tokens, 0, r.max_new_tokens);
  Between("logprobs", r.logprobs, 0, std::min(kMaxAlternatives, limits.n_vocab));
  Between("prompt_logprobs", r.prompt_logprobs, 0, std::min(kMaxAlternatives, limits.n_vocab));
  CheckEmbedding(r);
  CheckSequences(r, limits);
  That(std::isfinite(r.priority), "priority", r.priority, "a finite number");
  CheckMilliseconds("queue_deadline_ms", r.queue_deadline_ms);
  CheckMilliseconds("deadline_ms", r.deadline_ms);
  if (r.attention_window) Between("attention_window", *r.attention_window, 0, kMaxTokens);
  if (r.sink_tokens) Between("sink_tokens", *r.sink_tokens, 0, kMaxTokens);
  if (r.use_logits_post_processor && !limits.has_post_processor) {
    TVM_FFI_THROW(ValueError)
        << "request: use_logits_post_processor is set, but the executor has no post-processor";
  }
}

}  // namespace mlf
