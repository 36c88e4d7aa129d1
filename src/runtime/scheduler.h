// What the next step computes: who is admitted, who goes on, who has to wait. Counterpart:
// scheduler.cc.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/group.h"
#include "runtime/kv_cache.h"
#include "runtime/prefix_cache.h"

namespace mlf {

/// Numbers are part of the ABI.
enum class SchedulerPolicy : int {
  kMaxUtilization = 0,    // admit what fits now; where memory ends, the last in rank begins again
  kGuaranteedNoEvict = 1  // admit only what fits to its end
};

struct SchedulerOptions {
  SchedulerPolicy policy = SchedulerPolicy::kMaxUtilization;
  bool chunked_prefill = true;
  double aging_ms = 10000;  // a wait that counts as much as a priority higher by 1
  int64_t max_rows = 0;     // rows of logits in one step
  /// Entries over which a token's attention takes as long as the rest of the network; 0: unknown.
  int64_t deep = 0;
};

/// Some tokens of a sequence in a step: the next n that have no entries yet.
struct Work {
  Group* group;
  Sequence* sequence;
  int64_t n;

  bool completes() const { return n == sequence->n_pending(); }
  /// Rows of logits: of the last token where it is the last one known, of all where the prompt's
  /// log-probabilities are wanted.
  int64_t n_rows() const;
};

class Scheduler {
 public:
  /// `prefixes` may be null.
  Scheduler(const SchedulerOptions& options, KvCache& cache, PrefixCache* prefixes);

  /// Makes sure that the next `n` calls of Add take no memory.
  void Reserve(size_t n);
  void Add(std::shared_ptr<Group> group);
  /// Forgets the requests that are over.
  void RemoveFinished();
  /// Takes the pages of all sequences but the first: the prompt's entries but the last, which each
  /// computes for itself.
  void Fork(Group& group);
  /// Lets the beams of the last step go on as `steps` say: keys and values are shared, a beam of
  /// several children goes on in sequences of those that have none.
  void Branch(Group& group, const std::vector<BeamStep>& steps);
  /// Gives back what it holds.
  void ReleaseSequence(Sequence& sequence);

  /// At most `max_tokens` tokens, of prompts fewer where they lie deep and others wait for their
  /// next token: attention takes longer there. Takes slots and pages' worth of room for them, and
  /// from others where they rank lower; the pages themselves are taken by Step::Add.
  const std::vector<Work>& Plan(int64_t max_tokens, SteadyTime now);

  const std::vector<std::shared_ptr<Group>>& waiting() const { return waiting_; }
  const std::vector<std::shared_ptr<Group>>& running() const { return running_; }
  int64_t n_preemptions() const { return n_preemptions_; }
  /// Whether it can ever run.
  bool Fits(const Group& group) const { return MaxPages(group) <= cache_.n_pages(); }

 private:
  using Groups = std::vector<std::shared_ptr<Group>>;

  int64_t MaxPages(const Group& group) const;
  int64_t Available() const;
  int64_t NewPages(const Sequence& sequence, int64_t n) const;
  /// The most tokens <= n of the sequence that there is room for, with rows and chunks as allowed.
  int64_t Allowed(const Group& group, const Sequence& sequence, int64_t n) const;
  int64_t Surplus(const Sequence& sequence, int64_t n) const;
  int64_t Cost(const Sequence& sequence, int64_t n) const;
  void KeepBeamsTogether(const Group& group);
  bool HoldBack(const Group& group, const Sequence& sequence) const;

  void PlanRunning(bool decode);
  void PlanSequence(Group& group, Sequence& sequence);
  bool MakeRoom(const Group& group, int64_t pages);
  void Take(Group& group, Sequence& sequence, int64_t n);
  void Withdraw(const Group& group);
  void Preempt(Group& group);
  void Rank(SteadyTime now);
  bool HasStarved() const;
  void Admit(SteadyTime now);
  bool CanStart(const Group& group) const;
  void Start(Group& group, SteadyTime now);
  void TakeSlots(Group& group);

  SchedulerOptions options_;
  KvCache& cache_;
  PrefixCache* prefixes_;
  Groups waiting_, running_;
  std::vector<int64_t> free_slots_;
  std::vector<Work> works_;
  int64_t max_tokens_ = 0, tokens_left_ = 0, rows_left_ = 0, pages_planned_ = 0;
  bool others_wait_ = false;  // tokens of the plan depend on how fast it is
  int64_t n_preemptions_ = 0;
};

}  // namespace mlf
