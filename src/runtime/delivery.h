// From tokens to responses. Counterpart: delivery.cc.
#pragma once
#include <string>

#include "runtime/executor_stats.h"
#include "runtime/group.h"
#include "runtime/response_queue.h"

namespace mlf {

/// Fills the responses of sequences and hands them over, each sequence's last one exactly once.
class Delivery {
 public:
  explicit Delivery(ResponseQueue& responses) : responses_(responses) {}

  /// A token of the answer: its text, its log-probability. kStopWords when a stop word is complete,
  /// else kNotFinished.
  FinishReason Accept(Sequence& sequence, const RowOutput& row, bool logprobs);
  /// What a streaming request has got since the last time. False when its buffer is full.
  bool Stream(Group& group, Sequence& sequence);
  /// The sequence's last response; for requests that rank their sequences, all of them once the
  /// last one is over. Takes no memory but for text, which is left out where there is none.
  void Finish(Group& group, Sequence& sequence, FinishReason reason, const std::string& error);

 private:
  void SpreadCut(Group& group);
  void Rank(Group& group);
  void RankBeams(Group& group, FinishReason reason);
  void Push(Group& group, Sequence& sequence);

  ResponseQueue& responses_;
};

}  // namespace mlf
