// The steps of an executor: what the scheduler planned goes through the network, is sampled and
// delivered. Counterparts: engine.cc, engine_tokens.cc.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "model/model.h"
#include "runtime/delivery.h"
#include "runtime/executor_config.h"
#include "runtime/executor_stats.h"
#include "runtime/scheduler.h"
#include "runtime/step.h"

namespace mlf {

/// Belongs to one thread.
class Engine {
 public:
  /// `pool` may be null.
  Engine(std::shared_ptr<const Model> model, const ExecutorConfig& config, PostProcessorPool* pool,
         ResponseQueue& responses);

  /// Makes sure that the next `n` calls of Add take no memory.
  void Reserve(size_t n) { scheduler_.Reserve(n); }
  void Add(std::shared_ptr<Group> group) {
    scheduler_.Add(std::move(group));
    ++stats_.requests;
  }
  bool Fits(const Group& group) const { return scheduler_.Fits(group); }
  /// Ends a request; false when it is over already.
  bool Finish(int64_t id, FinishReason reason, const std::string& error);
  void FinishAll(FinishReason reason, const std::string& error);
  /// Ends those whose time is over.
  void ExpireDeadlines(SteadyTime now);
  /// What was computed with an adapter is not found by requests any more.
  void ForgetRoots(const std::string& prefix);

  bool idle() const { return scheduler_.waiting().empty() && scheduler_.running().empty(); }
  /// One step over what is there; false when nothing can be computed. An exception in it ends the
  /// requests that cause it.
  bool RunStep();

  ExecutorStats stats() const;

 private:
  using Works = std::vector<Work>;

  /// Appends, computes, samples and delivers. After an exception the cache is as before.
  void Compute(const Works& works);
  void ComputeEach(const Works& works);
  void BuildStep(const Works& works);
  void AddTokens(const Work& work);
  void SubmitMasks(const Works& works);
  void CollectMasks();
  std::string ForcedError(const MaskEntry& entry) const;
  std::shared_ptr<MaskEntry> NewMaskEntry(const Group& group, const Sequence& sequence) const;
  void Forward();
  void Sample(const Works& works);
  RowInput InputOf(const Work& work, int64_t i) const;

  void Advance(const Works& works);
  void AdvanceWork(const Work& work, std::span<RowOutput> rows);
  void UseRow(Group& group, Sequence& sequence, RowOutput& row);
  bool AcceptToken(Group& group, Sequence& sequence, const RowOutput& row);
  void AdvanceBeams(Group& group);
  void TakePromptLogprobs(Group& group, Sequence& sequence, int64_t position,
                          std::span<RowOutput> rows);
  void TakeEmbeddings(const Work& work, std::span<const float> rows);
  void FinishEmbedding(Group& group, Sequence& sequence);
  void PromptDone(Group& group);
  void FinishSequence(Group& group, Sequence& sequence, FinishReason reason,
                      const std::string& error);
  void Fail(Group& group, Sequence& sequence, const std::string& error);
  void TellEnd(const Group& group, Sequence& sequence);
  void FinishAllOf(Group& group, FinishReason reason, const std::string& error = "");
  void AdaptBudget(double seconds);

  std::shared_ptr<const Model> model_;
  const ExecutorConfig config_;
  const int64_t n_vocab_, row_width_;
  RopeSettings rope_;
  KvCache cache_;
  std::unique_ptr<PrefixCache> prefixes_;
  Scheduler scheduler_;
  Delivery delivery_;
  PostProcessorPool* pool_;
  Workspace workspace_;
  Step step_;
  Buffer logits_, embeddings_;
  int64_t budget_;  // tokens of the next step

  // Of the step that runs.
  std::vector<Sequence*> masked_;  // whose masks are being filled
  MaskEntries entries_;
  bool masks_wanted_ = false;  // submitted, and not collected
  std::vector<RowInput> inputs_;
  std::vector<size_t> row_counts_;       // of each work, as planned
  std::vector<int64_t> embedding_ends_;  // behind the rows of each work
  std::vector<RowOutput> outputs_;
  ExecutorStats stats_;
};

}  // namespace mlf
