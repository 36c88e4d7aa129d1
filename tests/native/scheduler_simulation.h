// A scheduler over a real cache, with steps that compute nothing: plans are checked and carried
// out. Used by scheduler_test.cc.
#pragma once
#include <algorithm>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "check.h"
#include "runtime/scheduler.h"
#include "tiny_model.h"

namespace mlf::test {

struct GroupSpec {
  int64_t n_prompt = 8, max_new_tokens = 4, n = 1, beam_width = 1, prompt_logprobs = 0;
  double priority = 0;
  std::string root{};    // empty: no prefix cache
  uint64_t text = 7;     // seed of the prompt
  int64_t n_shared = 0;  // first tokens of the prompt that are those of every text
};

class Simulation {
 public:
  Simulation(const SchedulerOptions& options, const CacheShape& shape, bool prefixes)
      : options_(options),
        model_(SharedModel()),
        cache_(model_->config(), shape, kF16),
        prefixes_(prefixes ? std::make_unique<PrefixCache>(cache_, 17) : nullptr),
        scheduler_(options, cache_, prefixes_.get()) {}

  std::shared_ptr<Group> Add(const GroupSpec& spec) {
    auto group = NewGroup(spec);
    scheduler_.Add(group);
    return group;
  }

  std::shared_ptr<Group> NewGroup(const GroupSpec& spec) {
    Request request;
    for (const int64_t token : TinyText(spec.n_shared, 99)) Push(request.tokens, token);
    for (const int64_t token : TinyText(spec.n_prompt - spec.n_shared, spec.text)) {
      Push(request.tokens, token);
    }
    request.max_new_tokens = spec.max_new_tokens;
    request.num_return_sequences = spec.beam_width > 1 ? 1 : spec.n;
    request.beam_width = spec.beam_width;
    request.priority = spec.priority;
    request.prompt_logprobs = spec.prompt_logprobs;
    auto group = std::make_shared<Group>(next_id_++, std::move(request), model_->vocab());
    group->cache_root = spec.root;
    group->arrived = now_;
    if (spec.beam_width > 1) {
      group->beams = std::make_unique<BeamSearch>(BeamOptions{});

      group->beam_sequences = {&group->sequences.front()};
    }
    return group;
  }

  /// Plans a step, checks that it keeps to its bounds, and carries it out. Returns its tokens.
  int64_t Step(int64_t max_tokens) {
    now_ += std::chrono::microseconds(1);  // no two steps are at the same time
    const auto before = scheduler_.running();
    const std::vector<Work> works = scheduler_.Plan(max_tokens, now_);
    CheckPlan(works, max_tokens);
    CheckPreempted(before);
    last_ = works;
    Compute(works);
    for (const Work& work : works) Advance(work);
    scheduler_.RemoveFinished();
    int64_t n = 0;
    for (const Work& work : works) n += work.n;
    return n;
  }

  /// Until all are done; every step must get somewhere.
  int64_t Finish(int64_t max_tokens) {
    int64_t steps = 0;
    for (; !idle(); ++steps) {
      MLF_EXPECT(Step(max_tokens) > 0);
      MLF_EXPECT(steps < 200'000);
    }
    return steps;
  }

  void Cancel(Group& group) {
    for (Sequence& s : group.sequences) End(s);
    scheduler_.RemoveFinished();
  }

  void Wait(double ms) { now_ += std::chrono::microseconds(static_cast<int64_t>(1000 * ms)); }

  void Force() { forces_ = true; }

  bool idle() const { return scheduler_.waiting().empty() && scheduler_.running().empty(); }
  int64_t available() const {
    return cache_.free_pages() + (prefixes_ == nullptr ? 0 : prefixes_->evictable());
  }
  bool all_free() const { return available() == cache_.n_pages(); }
  Scheduler& scheduler() { return scheduler_; }
  KvCache& cache() { return cache_; }
  PrefixCache* prefixes() { return prefixes_.get(); }
  const std::vector<Work>& last() const { return last_; }
  bool WasPlanned(const Group& group) const {
    return std::any_of(last_.begin(), last_.end(),
                       [&](const Work& work) { return work.group == &group; });
  }

 private:
  static void Push(std::vector<int32_t>& tokens, int64_t token) {
    tokens.push_back(static_cast<int32_t>(token));
  }
  static const std::shared_ptr<const Model>& SharedModel() {
    static const std::shared_ptr<const Model> model = LoadTiny();
    return model;
  }

  int64_t MostPages(const Group& group) const {
    const int64_t entries =
        std::min(group.n_prompt() + group.request.max_new_tokens, cache_.n_ctx());
    return static_cast<int64_t>(group.sequences.size()) * ((entries + kPageSize - 1) / kPageSize);
  }

  void CheckPlan(const std::vector<Work>& works, int64_t max_tokens) const {
    int64_t tokens = 0, rows = 0;
    std::set<const Sequence*> seen;
    for (const Work& work : works) {
      const Sequence& s = *work.sequence;
      MLF_EXPECT(work.n > 0 && work.n <= s.n_pending());
      MLF_EXPECT(seen.insert(&s).second);
      MLF_EXPECT(work.group->running && s.active && !s.over && s.slot >= 0);
      tokens += work.n;
      rows += work.n_rows();
    }
    // Without chunks a prompt that is longer than a step has one to itself.
    const bool alone = !options_.chunked_prefill && works.size() == 1;
    MLF_EXPECT(tokens <= max_tokens || alone);
    MLF_EXPECT(rows <= options_.max_rows);
    MLF_EXPECT(!works.empty() || idle());
    CheckBeams(works);
    CheckOrder();
    if (options_.policy != SchedulerPolicy::kGuaranteedNoEvict) return;
    int64_t pages = 0;
    for (const auto& group : scheduler_.running()) pages += MostPages(*group);
    MLF_EXPECT(pages <= cache_.n_pages());
  }

  void CheckBeams(const std::vector<Work>& works) const {
    for (const auto& group : scheduler_.running()) {
      if (group->beams == nullptr || !group->prompt_done) continue;
      const auto completes = std::count_if(works.begin(), works.end(), [&](const Work& work) {
        return work.group == group.get() && work.completes();
      });
      MLF_EXPECT(completes == 0 || completes == static_cast<int64_t>(group->beam_sequences.size()));
    }
  }

  /// Running ones stand by rank, and nobody was admitted before one who ranks higher.
  void CheckOrder() const {
    const auto& running = scheduler_.running();
    for (size_t i = 1; i < running.size(); ++i) MLF_EXPECT(running[i - 1]->Before(*running[i]));
    for (const auto& group : running) {
      if (group->started != now_) continue;
      for (const auto& waiting : scheduler_.waiting()) MLF_EXPECT(!waiting->Before(*group));
    }
  }

  /// Who had to go ranks behind all who stay.
  void CheckPreempted(const std::vector<std::shared_ptr<Group>>& before) const {
    for (const auto& gone : before) {
      if (gone->running) continue;
      for (const auto& stays : before) MLF_EXPECT(!stays->running || stays->Before(*gone));
      for (const Sequence& s : gone->sequences) MLF_EXPECT(s.slot < 0 && s.n_computed == 0);
    }
  }

  /// Never more pages than are free once the plan is made.
  void Compute(const std::vector<Work>& works) {
    for (const Work& work : works) {
      for (int64_t i = 0; i < work.n; ++i) {
        cache_.Append(work.sequence->slot, static_cast<int32_t>(work.sequence->n_computed + i));
      }
    }
  }

  void Advance(const Work& work) {
    Group& group = *work.group;
    Sequence& s = *work.sequence;
    const bool completes = work.completes();
    s.n_computed += work.n;
    if (prefixes_ != nullptr && !group.cache_root.empty()) {
      prefixes_->Put(group.cache_root, s.cursor, std::span(s.tokens).first(s.n_computed), s.slot);
    }
    if (!group.prompt_done && s.index == 0 && s.n_computed >= group.n_prompt()) {
      group.prompt_done = true;
      if (group.sequences.size() > 1 && group.beams == nullptr) scheduler_.Fork(group);
    }
    if (!completes || s.over) return;
    if (group.beams != nullptr) return AdvanceBeams(group);
    s.tokens.push_back(static_cast<int32_t>(Draw() % kTinyTokens));
    // Now and then several tokens at once, as a post-processor may force them.
    const uint64_t forced = forces_ && Draw() % 40 == 0 ? Draw() % 20 : 0;
    for (uint64_t i = 0; i < forced; ++i) Push(s.tokens, static_cast<int64_t>(i));
    const int64_t full = std::min(group.n_prompt() + group.request.max_new_tokens, cache_.n_ctx());
    if (static_cast<int64_t>(s.tokens.size()) < full) return;
    End(s);
  }

  void AdvanceBeams(Group& group) {
    if (++group.n_beam_rows < group.beam_sequences.size()) return;
    const uint64_t n_parents = std::exchange(group.n_beam_rows, 0);
    std::vector<BeamStep> steps;
    for (int64_t i = 0; i < group.request.beam_width; ++i) {
      steps.push_back({static_cast<int32_t>(Draw() % n_parents), static_cast<int32_t>(i)});
    }
    const auto length = static_cast<int64_t>(group.beam_sequences.front()->tokens.size()) + 1;
    if (length >= std::min(group.n_prompt() + group.request.max_new_tokens, cache_.n_ctx())) {
      for (Sequence& s : group.sequences) End(s);
    } else {
      scheduler_.Branch(group, steps);
    }
  }

  void End(Sequence& s) {
    s.over = true;
    scheduler_.ReleaseSequence(s);
  }

  uint64_t Draw() { return RandomBits(31, n_draws_++); }

  const SchedulerOptions options_;
  std::shared_ptr<const Model> model_;
  KvCache cache_;
  std::unique_ptr<PrefixCache> prefixes_;
  Scheduler scheduler_;
  std::vector<Work> last_;
  int64_t next_id_ = 0;
  SteadyTime now_{std::chrono::hours(1)};
  uint64_t n_draws_ = 0;
  bool forces_ = false;
};

}  // namespace mlf::test
