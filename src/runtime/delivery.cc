// From tokens to responses. Counterpart: delivery.h.
#include "runtime/delivery.h"

#include <algorithm>
#include <utility>

#include "base/error_text.h"

namespace mlf {
namespace {

/// Runs what is not worth losing a response for; false where it fails.
template <typename Fn>
bool MemoryAllows(Fn fn) {
  try {
    fn();
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

bool IsCut(const Response& last) {
  return last.finish_reason == FinishReason::kCancelled ||
         last.finish_reason == FinishReason::kTimedOut ||
         last.finish_reason == FinishReason::kError;
}

bool Ranked(const Request& request) {
  return request.beam_width > 1 || request.best_of > request.num_return_sequences;
}

/// What has been gathered for the next delivery, taken out of `from` without a copy.
void MoveContents(Response& to, Response& from) {
  to.tokens = std::exchange(from.tokens, {});
  to.text = std::exchange(from.text, {});
  to.logprobs = std::exchange(from.logprobs, {});
  to.prompt_logprobs = std::exchange(from.prompt_logprobs, {});
  to.embedding = std::exchange(from.embedding, {});
}

}  // namespace

FinishReason Delivery::Accept(Sequence& s, const RowOutput& row, bool logprobs) {
  Response& response = s.response.front();
  response.tokens.push_back(row.token);
  if (logprobs) response.logprobs.push_back({row.logprob, row.best});
  response.text += s.stops.Push(s.decoder.Push(row.token));
  return s.stops.stopped() ? FinishReason::kStopWords : FinishReason::kNotFinished;
}

bool Delivery::Stream(Group& group, Sequence& s) {
  Response& response = s.response.front();
  if (!group.request.streaming || (response.tokens.empty() && response.text.empty())) return true;
  ResponseNode next(1);
  Response& empty = next.front();
  empty.request_id = group.id;
  empty.client_id = group.request.client_id;
  empty.sequence_index = s.index;
  response.cumulative_logprob = s.cumulative_logprob;
  response.mask_fraction = s.mask_fraction;
  response.cached_tokens = group.cached_tokens;
  if (!responses_.Push(s.response)) return false;
  s.response = std::move(next);
  return true;
}

void Delivery::Finish(Group& group, Sequence& s, FinishReason reason, const std::string& error) {
  if (s.over) return;
  s.over = true;
  Response& last = s.last.front();
  MoveContents(last, s.response.front());
  const bool whole = MemoryAllows([&] {
    std::string rest = s.stops.Push(s.decoder.Finish());
    if (s.stops.stopped() && reason != FinishReason::kError) reason = FinishReason::kStopWords;
    last.text += rest + s.stops.Finish();
  });
  const bool cut = reason == FinishReason::kCancelled || reason == FinishReason::kTimedOut;
  if (!whole && !cut) reason = FinishReason::kError;  // its text lacks an end
  if (!MemoryAllows([&] { last.error = error; }) || (!whole && error.empty())) {
    last.error = kOutOfMemory;
  }
  last.finish_reason = reason;
  last.cumulative_logprob = s.cumulative_logprob;
  last.mask_fraction = s.mask_fraction;
  last.cached_tokens = group.cached_tokens;
  --group.n_unfinished;
  if (!Ranked(group.request)) return Push(group, s);
  if (group.n_unfinished > 0) return;
  group.n_unfinished = group.request.num_return_sequences;  // that are still to be delivered
  SpreadCut(group);
  const bool ranked =
      MemoryAllows([&] { group.beams != nullptr ? RankBeams(group, reason) : Rank(group); });
  for (int64_t i = 0; i < group.request.num_return_sequences; ++i) {
    Response& best = group.sequences[i].last.front();
    if (!ranked) {  // these may not be the best
      best.finish_reason = FinishReason::kError;
      best.error = kOutOfMemory;
    }
    --group.n_unfinished;
    Push(group, group.sequences[i]);
  }
}

void Delivery::Push(Group& group, Sequence& s) {
  s.last.front().is_sequence_final = true;
  s.last.front().is_request_final = group.n_unfinished == 0;
  responses_.Push(s.last);
}

/// Where a sequence did not come to its end, the best of the others are not the best of all: they
/// say so.
void Delivery::SpreadCut(Group& group) {
  const auto cut = std::find_if(group.sequences.begin(), group.sequences.end(),
                                [](const Sequence& s) { return IsCut(s.last.front()); });
  if (cut == group.sequences.end()) return;
  const Response& why = cut->last.front();
  for (Sequence& s : group.sequences) {
    Response& response = s.last.front();
    if (IsCut(response)) continue;
    response.finish_reason = why.finish_reason;
    MemoryAllows([&] { response.error = why.error; });
  }
}

/// Brings the best responses to the front.
void Delivery::Rank(Group& group) {
  std::vector<SequenceScore> scores;
  for (const Sequence& s : group.sequences) scores.push_back({s.cumulative_logprob, s.n_scored});
  const std::vector<int32_t> order = RankByMeanLogprob(scores);
  std::vector<ResponseNode> ranked;
  ranked.reserve(order.size());  // from here on nothing can fail, with some taken out
  for (const int32_t index : order) {
    ranked.push_back(std::move(group.sequences[index].last));
  }
  // What was said of the prompt was said of the first sequence, and goes with the first response.
  std::vector<TokenLogprobs> prompt;
  for (ResponseNode& node : ranked) {
    if (node.front().sequence_index == 0) prompt = std::move(node.front().prompt_logprobs);
  }
  for (size_t i = 0; i < ranked.size(); ++i) {
    group.sequences[i].last = std::move(ranked[i]);
    group.sequences[i].last.front().sequence_index = static_cast<int64_t>(i);
  }
  group.sequences.front().last.front().prompt_logprobs = std::move(prompt);
}

void Delivery::RankBeams(Group& group, FinishReason reason) {
  group.beams->Finish();
  const auto best = group.beams->Best(group.request.num_return_sequences);
  for (size_t i = 0; i < best.size(); ++i) {
    Response& last = group.sequences[i].last.front();
    last.tokens = best[i].tokens;
    if (best[i].ended) last.tokens.pop_back();
    StreamDecoder decoder(group.vocab, /*skip_special=*/true, /*at_start=*/false);
    last.text.clear();
    for (const int32_t token : last.tokens) last.text += decoder.Push(token);
    last.text += decoder.Finish();
    last.cumulative_logprob = best[i].sum;
    last.sequence_index = static_cast<int64_t>(i);
    if (reason == FinishReason::kLength && best[i].ended) last.finish_reason = FinishReason::kEndId;
  }
}

}  // namespace mlf
