// A request in the engine: its sequences and how far each has come. Counterpart: group.cc.
#pragma once
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/lora.h"
#include "runtime/beam_search.h"
#include "runtime/post_processor.h"
#include "runtime/prefix_cache.h"
#include "runtime/request.h"
#include "runtime/response_queue.h"
#include "runtime/stop_matcher.h"
#include "text/stream_decoder.h"

namespace mlf {

using SteadyTime = std::chrono::steady_clock::time_point;

struct Sequence {
  Sequence(int64_t request_id, const Request& request, int64_t index, uint64_t seed,
           const std::shared_ptr<const Vocab>& vocab);

  int64_t index;                // sequence_index of the responses
  std::vector<int32_t> tokens;  // the prompt and what was generated
  int64_t n_computed = 0;       // of them, in the cache
  int64_t slot = -1;            // sequence of the cache; −1: none
  PrefixCache::Cursor cursor{};
  uint64_t seed;
  bool active;  // in steps: the first from the start, the others once the prompt is computed
  bool over = false;

  StreamDecoder decoder;
  StopMatcher stops;
  std::shared_ptr<MaskEntry> mask;  // what the post-processor sees
  bool masked = false;              // it has been filled for the next token
  std::string mask_error;           // why it could not be
  double mask_fraction = 1;
  ResponseNode response;  // being filled for the next delivery
  ResponseNode last;      // waits for the end
  double cumulative_logprob = 0;
  int64_t n_scored = 0;  // tokens in cumulative_logprob: the end token too
  int64_t n_generated = 0;
  SteadyTime last_token{};

  int64_t n_pending() const { return static_cast<int64_t>(tokens.size()) - n_computed; }
};

/// All sequences of one request; they run and rest together.
struct Group {
  Group(int64_t id, Request request, const std::shared_ptr<const Vocab>& vocab);

  const int64_t id;
  const Request request;
  const std::shared_ptr<const Vocab> vocab;
  std::vector<Sequence> sequences;
  std::shared_ptr<const LoraAdapter> lora;
  std::string cache_root;  // requests of another root share no prompt; empty: none does
  std::unique_ptr<BeamSearch> beams;
  std::vector<Sequence*> beam_sequences;  // of the beams that run, in their order
  std::vector<RowOutput> beam_rows;       // of this step, as beam_sequences
  size_t n_beam_rows = 0;                 // that are there
  std::optional<EmbeddingPool> pooled;    // hidden rows so far
  std::vector<int32_t> banned_ids;        // that may not come before min_tokens
  int64_t first_soft_token;               // from here on entries are this request's own
  int64_t cached_tokens = 0;
  int64_t n_prompt_logprobs = 0;  // that were taken
  int64_t n_unfinished;           // sequences whose last response is still to come

  SteadyTime arrived;
  std::optional<SteadyTime> started, first_token;
  double rank = 0;    // priority, and what waiting has added to it
  int64_t order = 0;  // of arrival
  bool running = false;
  bool prompt_done = false;

  /// Whether cached entries can stand for the beginning of the prompt.
  bool cacheable() const {
    return !cache_root.empty() && request.prompt_logprobs == 0 &&
           (!request.pooling || request.pooling == Pooling::kLast);
  }
  bool over() const {
    return std::all_of(sequences.begin(), sequences.end(),
                       [](const Sequence& s) { return s.over; });
  }
  int64_t n_returned() const { return request.num_return_sequences; }
  int64_t n_prompt() const { return static_cast<int64_t>(request.tokens.size()); }
  bool Before(const Group& other) const {
    return rank != other.rank ? rank > other.rank : order < other.order;
  }
};

}  // namespace mlf
