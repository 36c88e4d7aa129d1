// What became of the requests that a test sent to an executor: every response is looked at, and
// each request and each of its sequences must end once. Used by executor_*_test.cc.
#pragma once
#include <bit>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "runtime/executor.h"
#include "tiny_model.h"

namespace mlf::test {

using Tokens = std::vector<int32_t>;

inline bool EndsByItself(FinishReason reason) {
  return reason == FinishReason::kEndId || reason == FinishReason::kStopWords ||
         reason == FinishReason::kLength;
}

/// For any number of threads. The bits of an embedding count as tokens.
class Ledger {
 public:
  /// What the test knows of a request.
  struct Entry {
    int64_t n_sequences = 1, max_tokens = 0;
    bool streaming = false;
    bool ordered = true;   // one thread at a time records its responses
    int64_t repeats = -1;  // requests of the same number must give the same tokens
  };

  static Entry EntryOf(const Request& request, bool ordered = true, int64_t repeats = -1) {
    const int64_t most = request.pooling ? kTinyEmbd : request.max_new_tokens;
    return {request.num_return_sequences, most, request.streaming, ordered, repeats};
  }

  /// Responses may be recorded before this.
  void Sent(int64_t id, const Entry& entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++n_sent_;
    State& state = open_[id];
    MLF_EXPECT(!state.sent);
    state.sent = entry;
    if (state.over && entry.ordered) Close(id);
  }

  void Record(const std::vector<Response>& responses) {
    if (responses.empty()) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Response& response : responses) Record(response);
  }

  /// Requests that are not over.
  int64_t n_open() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return n_sent_ - n_over_;
  }
  int64_t n_sent() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return n_sent_;
  }
  int64_t n_ended(FinishReason reason) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = reasons_.find(reason);
    return found == reasons_.end() ? 0 : found->second;
  }
  /// Once all is recorded: everything that was sent must be over. Then another executor may begin
  /// with the same ids; the tokens of repeated requests stay.
  void Settle() {
    const std::lock_guard<std::mutex> lock(mutex_);
    MLF_EXPECT(n_sent_ == n_over_);
    while (!open_.empty()) Close(open_.begin()->first);
  }
  /// Of the requests with this number.
  std::vector<Tokens> TokensOf(int64_t repeats) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = tokens_.find(repeats);
    return found == tokens_.end() ? std::vector<Tokens>() : found->second;
  }

 private:
  struct SequenceState {
    Tokens tokens;
    int n_responses = 0;
    FinishReason reason = FinishReason::kNotFinished;
  };
  struct State {
    std::optional<Entry> sent;
    std::map<int64_t, SequenceState> sequences;
    bool over = false;
  };

  void Record(const Response& response) {
    State& state = open_[response.request_id];
    SequenceState& sequence = state.sequences[response.sequence_index];
    ++sequence.n_responses;
    sequence.tokens.insert(sequence.tokens.end(), response.tokens.begin(), response.tokens.end());
    for (const float x : response.embedding) sequence.tokens.push_back(std::bit_cast<int32_t>(x));
    const bool ends = response.finish_reason != FinishReason::kNotFinished;
    MLF_EXPECT(ends == response.is_sequence_final);
    MLF_EXPECT(response.is_sequence_final || !response.is_request_final);
    if (response.finish_reason == FinishReason::kError) MLF_EXPECT(!response.error.empty());
    if (ends) {
      MLF_EXPECT(sequence.reason == FinishReason::kNotFinished);
      sequence.reason = response.finish_reason;
      ++reasons_[response.finish_reason];
    }
    if (!response.is_request_final) return;
    MLF_EXPECT(!state.over);
    state.over = true;
    ++n_over_;
    if (state.sent && state.sent->ordered) Close(response.request_id);
  }

  /// What comes for the id after this opens it again, and there it stays.
  void Close(int64_t id) {
    const State state = std::move(open_[id]);
    MLF_EXPECT(state.sent && state.over);
    const Entry& sent = *state.sent;
    MLF_EXPECT(static_cast<int64_t>(state.sequences.size()) == sent.n_sequences);
    std::vector<Tokens> tokens;
    bool whole = true;
    for (const auto& [index, sequence] : state.sequences) {
      MLF_EXPECT(index >= 0 && index < sent.n_sequences);
      MLF_EXPECT(sequence.reason != FinishReason::kNotFinished);
      MLF_EXPECT(static_cast<int64_t>(sequence.tokens.size()) <= sent.max_tokens);
      MLF_EXPECT(sent.streaming || sequence.n_responses == 1);
      whole = whole && EndsByItself(sequence.reason);
      tokens.push_back(sequence.tokens);
    }
    const bool in_order = sent.ordered || !sent.streaming;
    if (whole && in_order && sent.repeats >= 0) Compare(sent.repeats, tokens);
    open_.erase(id);
  }

  void Compare(int64_t repeats, const std::vector<Tokens>& tokens) {
    const auto [known, fresh] = tokens_.emplace(repeats, tokens);
    if (fresh || known->second == tokens) return;
    std::fprintf(stderr, "repeated request %d gave other tokens\n", static_cast<int>(repeats));
    std::exit(1);
  }

  mutable std::mutex mutex_;
  std::map<int64_t, State> open_;
  std::map<int64_t, std::vector<Tokens>> tokens_;
  std::map<FinishReason, int64_t> reasons_;
  int64_t n_sent_ = 0, n_over_ = 0;
};

/// Reads whatever comes for anybody until all that was sent is over.
inline void ReadAll(Executor& executor, Ledger& ledger) {
  while (ledger.n_open() > 0) ledger.Record(executor.Await(20, std::nullopt));
}

/// All that was sent is over: nothing may be left in the engine.
inline void ExpectIdle(const Executor& executor) {
  ExecutorStats stats;
  for (int tries = 0; tries < 2000; ++tries) {  // figures follow at the end of a step
    stats = executor.stats();
    if (stats.waiting == 0 && stats.running == 0 && stats.blocks_used == 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  MLF_EXPECT(stats.waiting == 0 && stats.running == 0 && stats.unread == 0);
  MLF_EXPECT(stats.blocks_used == 0);
  MLF_EXPECT(stats.blocks_free + stats.blocks_cached == stats.blocks_total);
}

}  // namespace mlf::test
