// What a client asks of an executor, and what it gets back. Counterpart: request.cc.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/array.h"
#include "runtime/batch_sampler.h"
#include "runtime/beam_search.h"
#include "runtime/embedding.h"
#include "runtime/finish_reason.h"
#include "runtime/sampling_params.h"

namespace mlf {

/// Everything is owned. What is not set is what the executor's configuration or the model says.
/// Of a cache_salt, and of an adapter's name.
inline constexpr size_t kMaxNameBytes = 256;

struct Request {
  std::vector<int32_t> tokens;  // the prompt; n_vocab + i stands for row i of prompt_table
  int64_t max_new_tokens = 128;
  SamplingParams sampling;
  bool streaming = false;
  int64_t num_return_sequences = 1;
  int64_t best_of = 0;     // sequences to sample, the best of which are returned; 0: as many
  int64_t beam_width = 1;  // more than 1: beam search instead of sampling
  double length_penalty = 1;
  EarlyStopping early_stopping = EarlyStopping::kHeuristic;
  std::vector<int32_t> stop_token_ids;  // end ids beside the model's; not part of the tokens
  std::vector<std::string> stop_words;
  bool ignore_eos = false;
  int64_t min_tokens = 0;
  int64_t logprobs = 0;         // alternatives per token; 0: no log-probabilities at all
  int64_t prompt_logprobs = 0;  // the same for the prompt's tokens
  double priority = 0;
  std::optional<double> queue_deadline_ms, deadline_ms;
  int64_t client_id = 0;
  std::string lora;                         // name of a loaded adapter; empty: none
  std::vector<float> prompt_table;          // [rows, prompt_table_cols]
  int64_t prompt_table_cols = 0;            // n_embd, where there is a table
  std::optional<int64_t> attention_window;  // entries that a token sees; 0: all
  std::optional<int64_t> sink_tokens;       // first entries that are seen beyond the window
  std::string cache_salt;                   // only requests of one salt share cached prompts
  bool use_logits_post_processor = false;
  std::optional<Pooling> pooling;  // set: an embedding instead of tokens
  bool normalize = true;           // the embedding has length 1

  int64_t n_sequences() const;  // that are computed
};

/// What an executor can do for a request.
struct RequestLimits {
  int64_t n_vocab;  // tokens of the vocabulary
  int64_t n_embd;
  int64_t n_ctx;          // of one sequence
  int64_t max_sequences;  // in one step
  int64_t max_tokens;     // in one step; 0: any
  int64_t max_chunk;      // of them, of a prompt; 0: any
  bool has_post_processor;
};

/// ValueError, TypeError or NotImplementedError naming the field.
void Check(const Request& request, const RequestLimits& limits);

struct TokenLogprobs {
  float logprob;                   // of the token
  std::vector<TokenLogprob> best;  // of all tokens, the best first
};

/// One delivery. A request gets exactly one with is_request_final, a sequence exactly one with
/// is_sequence_final.
struct Response {
  int64_t request_id = 0, client_id = 0, sequence_index = 0;
  std::vector<int32_t> tokens;  // new since the last response of this sequence
  std::string text;             // likewise; never half a character, nothing of a stop word
  std::vector<TokenLogprobs> logprobs, prompt_logprobs;
  std::vector<float> embedding;
  double cumulative_logprob = 0;
  double mask_fraction = 1;   // of the last token that a post-processor masked
  int64_t cached_tokens = 0;  // of the prompt, found in the prefix cache
  FinishReason finish_reason = FinishReason::kNotFinished;
  std::string error;
  bool is_sequence_final = false, is_request_final = false;
};

}  // namespace mlf
