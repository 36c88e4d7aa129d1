// What the next step computes. Counterpart: scheduler.h.
#include "runtime/scheduler.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"

namespace mlf {
namespace {

/// A sequence with so many tokens to compute is decoding: one, or a few that were forced.
constexpr int64_t kDecodeTokens = 16;

int64_t PagesOf(int64_t entries) { return (entries + kPageSize - 1) / kPageSize; }

}  // namespace

int64_t Work::n_rows() const {
  const int64_t prompt = group->n_prompt() - sequence->n_computed;
  if (group->request.prompt_logprobs > 0 && prompt > 0) return n;
  return completes() && !group->request.pooling ? 1 : 0;
}

Scheduler::Scheduler(const SchedulerOptions& options, KvCache& cache, PrefixCache* prefixes)
    : options_(options), cache_(cache), prefixes_(prefixes) {
  for (int64_t slot = cache.n_seq_max(); slot-- > 0;) free_slots_.push_back(slot);
}

void Scheduler::Reserve(size_t n) {
  const size_t all = waiting_.size() + running_.size() + n;
  if (waiting_.capacity() < all) waiting_.reserve(2 * all);
  if (running_.capacity() < all) running_.reserve(2 * all);
}

void Scheduler::Add(std::shared_ptr<Group> group) {
  Reserve(1);
  waiting_.push_back(std::move(group));
}

void Scheduler::ReleaseSequence(Sequence& s) {
  if (s.slot < 0) return;
  cache_.Clear(s.slot);
  free_slots_.push_back(s.slot);
  s.slot = -1;
  s.n_computed = 0;
  s.cursor = {};
}

void Scheduler::RemoveFinished() {
  for (Groups* groups : {&waiting_, &running_}) {
    std::erase_if(*groups, [](const std::shared_ptr<Group>& group) { return group->over(); });
  }
}

void Scheduler::Fork(Group& group) {
  Sequence& first = group.sequences.front();
  const auto shared = static_cast<int32_t>(group.n_prompt() - 1);
  for (Sequence& s : group.sequences) {
    if (s.active || s.over) continue;
    s.active = true;
    if (first.slot < 0 || shared == 0) continue;
    try {
      cache_.Copy(first.slot, s.slot, 0, shared);
      s.n_computed = shared;
    } catch (const std::exception&) {  // no page is free: it computes the prompt for itself
      cache_.Clear(s.slot);
    }
  }
}

void Scheduler::Branch(Group& group, const std::vector<BeamStep>& steps) {
  const std::vector<Sequence*> parents = group.beam_sequences;
  std::vector<Sequence*> children(steps.size(), nullptr), spare;
  for (Sequence& s : group.sequences) {
    const auto parent = std::find(parents.begin(), parents.end(), &s) - parents.begin();
    const auto step = std::find_if(steps.begin(), steps.end(),
                                   [&](const BeamStep& b) { return b.parent == parent; });
    if (step == steps.end()) {
      spare.push_back(&s);
    } else {
      children[step - steps.begin()] = &s;  // the first child stays where the parent is
    }
  }
  for (Sequence* s : spare) {
    cache_.Clear(s->slot);
    s->active = false;
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    if (children[i] != nullptr) continue;
    const Sequence& parent = *parents[steps[i].parent];
    Sequence& child = *spare.back();
    spare.pop_back();
    cache_.Copy(parent.slot, child.slot, 0, INT32_MAX);
    child.tokens = parent.tokens;
    child.n_computed = parent.n_computed;
    child.cursor = parent.cursor;
    child.active = true;
    children[i] = &child;
  }
  for (size_t i = 0; i < steps.size(); ++i) children[i]->tokens.push_back(steps[i].token);
  group.beam_sequences = children;
}

int64_t Scheduler::MaxPages(const Group& group) const {
  const int64_t entries = std::min(group.n_prompt() + group.request.max_new_tokens, cache_.n_ctx());
  const auto n = static_cast<int64_t>(group.sequences.size());
  return n * (PagesOf(entries) + (n > 1 ? 1 : 0));  // a page that several share is copied first
}

int64_t Scheduler::Available() const {
  const int64_t idle = prefixes_ == nullptr ? 0 : prefixes_->evictable();
  return cache_.free_pages() + idle - pages_planned_;
}

int64_t Scheduler::NewPages(const Sequence& s, int64_t n) const {
  const std::vector<int32_t>& pages = cache_.pages(s.slot);
  const bool cut = s.n_computed % kPageSize != 0 && !pages.empty();
  return PagesOf(s.n_computed + n) - static_cast<int64_t>(pages.size()) +
         (cut && cache_.owners(pages.back()) > 1 ? 1 : 0);
}

/// Beams advance in one step: all of them or none.
void Scheduler::KeepBeamsTogether(const Group& group) {
  if (group.beams == nullptr || !group.prompt_done) return;
  const auto planned = std::count_if(works_.begin(), works_.end(), [&](const Work& work) {
    return work.group == &group && work.completes();
  });
  const auto n_beams = static_cast<int64_t>(group.beam_sequences.size());
  if (planned > 0 && planned < n_beams) Withdraw(group);
}

/// Beams advance together: those that have caught up wait with their last token for the others.
bool Scheduler::HoldBack(const Group& group, const Sequence& sequence) const {
  return group.beams != nullptr && sequence.n_pending() == 1 &&
         std::any_of(group.sequences.begin(), group.sequences.end(),
                     [](const Sequence& s) { return s.active && !s.over && s.n_pending() > 1; });
}

/// Entries that the last of the next n tokens sees beyond those of a prompt's first step; 0 where
/// they do not count.
int64_t Scheduler::Surplus(const Sequence& s, int64_t n) const {
  if (!others_wait_ || s.n_pending() <= kDecodeTokens) return 0;
  return std::max<int64_t>(0, s.n_computed + n - max_tokens_);
}

/// Of the step's tokens: what the next n take as long as.
int64_t Scheduler::Cost(const Sequence& s, int64_t n) const {
  const int64_t surplus = Surplus(s, n);
  return surplus == 0 ? n : n + n * surplus / options_.deep;
}

int64_t Scheduler::Allowed(const Group& group, const Sequence& s, int64_t n) const {
  n = std::min(n, tokens_left_);
  if (const int64_t surplus = Surplus(s, n); n > 1 && surplus > 0) {
    n = std::max<int64_t>(1, n * options_.deep / (options_.deep + surplus));
    if (n > kPageSize) n -= n % kPageSize;
  }
  if (n < s.n_pending()) {
    // A prompt in one piece (but for rows and beams, see below), if need be longer than a step that
    // it then has to itself.
    if (!options_.chunked_prefill && s.n_pending() > kDecodeTokens) {
      n = works_.empty() ? s.n_pending() : 0;
    }
  }
  const bool catching_up = group.beams != nullptr && group.sequences.size() > 1 &&
                           group.prompt_done && s.n_pending() > 1;
  if (catching_up) n = std::min(n, s.n_pending() - 1);
  const Work work{const_cast<Group*>(&group), const_cast<Sequence*>(&s), n};
  if (work.n_rows() > rows_left_) n = work.n_rows() == n ? rows_left_ : 0;
  return n;
}

void Scheduler::Take(Group& group, Sequence& s, int64_t n) {
  works_.push_back({&group, &s, n});
  tokens_left_ -= Cost(s, n);
  rows_left_ -= works_.back().n_rows();
  pages_planned_ += NewPages(s, n);
}

void Scheduler::Withdraw(const Group& group) {
  std::erase_if(works_, [&](const Work& work) {
    if (work.group != &group) return false;
    tokens_left_ += Cost(*work.sequence, work.n);
    rows_left_ += work.n_rows();
    pages_planned_ -= NewPages(*work.sequence, work.n);
    return true;
  });
}

void Scheduler::Preempt(Group& group) {
  Withdraw(group);
  const auto found = std::find_if(running_.begin(), running_.end(),
                                  [&](const auto& g) { return g.get() == &group; });
  for (Sequence& s : group.sequences) ReleaseSequence(s);
  group.running = false;
  // Where its rank puts it: nobody who came later may take its place.
  const auto place = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const auto& g) { return group.Before(*g); });
  waiting_.insert(place, *found);
  running_.erase(found);
  ++n_preemptions_;
}

/// Until `pages` are available, the last in rank behind `group` begin again.
bool Scheduler::MakeRoom(const Group& group, int64_t pages) {
  while (Available() < pages) {
    Group& last = *running_.back();
    if (&last == &group || !group.Before(last)) return false;
    Preempt(last);
  }
  return true;
}

void Scheduler::PlanSequence(Group& group, Sequence& s) {
  int64_t n = Allowed(group, s, s.n_pending());
  if (n <= 0) return;
  if (!MakeRoom(group, NewPages(s, n))) {
    if (!options_.chunked_prefill) return;
    // What is there: a part of a prompt is worth a step, and one token less is not.
    while (n > 0 && NewPages(s, n) > Available()) {
      n = n > kPageSize ? n - kPageSize : 0;
    }
  }
  if (n > 0) Take(group, s, n);
}

void Scheduler::PlanRunning(bool decode) {
  // By index: room may be made by taking groups from the end.
  for (size_t i = 0; i < running_.size(); ++i) {
    const std::shared_ptr<Group> group = running_[i];
    for (Sequence& s : group->sequences) {
      if (!group->running) break;
      if (!s.active || s.over || HoldBack(*group, s)) continue;
      if ((s.n_pending() <= kDecodeTokens) == decode) PlanSequence(*group, s);
    }
    KeepBeamsTogether(*group);
  }
}

void Scheduler::Rank(SteadyTime now) {
  for (const auto& group : waiting_) {
    const double waited = std::chrono::duration<double, std::milli>(now - group->arrived).count();
    const double aged = group->request.priority + std::floor(waited / options_.aging_ms);
    group->rank = std::max(group->rank, aged);  // and keeps it when it runs
  }
  const auto before = [](const auto& a, const auto& b) { return a->Before(*b); };
  std::sort(waiting_.begin(), waiting_.end(), before);
  std::sort(running_.begin(), running_.end(), before);
}

bool Scheduler::CanStart(const Group& group) const {
  const auto n = static_cast<int64_t>(group.sequences.size());
  if (static_cast<int64_t>(free_slots_.size()) < n) return false;
  if (options_.policy == SchedulerPolicy::kGuaranteedNoEvict) {
    int64_t reserved = MaxPages(group);
    for (const auto& other : running_) reserved += MaxPages(*other);
    return reserved <= cache_.n_pages();
  }
  int64_t pages = 0;  // and one for each that runs, so that it does not have to go at once
  for (const Sequence& s : group.sequences) {
    if (!s.active || s.over) continue;
    const auto n_tokens = static_cast<int64_t>(s.tokens.size());
    pages += PagesOf(n_tokens);
    if (prefixes_ == nullptr || !group.cacheable()) continue;
    const PrefixCache::Match match = prefixes_->Known(group.cache_root, s.tokens, n_tokens - 1);
    pages -= match.tokens / kPageSize - match.idle_pages;  // idle ones count as available
  }
  const auto spare = static_cast<int64_t>(running_.size());
  return pages + (running_.empty() ? 0 : spare) <= Available();
}

void Scheduler::TakeSlots(Group& group) {
  for (Sequence& s : group.sequences) {
    if (s.over) continue;
    s.slot = free_slots_.back();
    free_slots_.pop_back();
    if (!s.active || prefixes_ == nullptr || !group.cacheable()) continue;
    // The last token is always computed: its logits are wanted.
    s.cursor = prefixes_->Take(group.cache_root, s.tokens,
                               static_cast<int64_t>(s.tokens.size()) - 1, s.slot);
    s.n_computed = s.cursor.tokens;
  }
}

void Scheduler::Start(Group& group, SteadyTime now) {
  try {
    TakeSlots(group);
  } catch (...) {  // it goes on waiting
    for (Sequence& s : group.sequences) ReleaseSequence(s);
    throw;
  }
  if (!group.started) {
    group.started = now;
    group.cached_tokens = group.sequences.front().n_computed;
  }
  group.running = true;
}

/// A prompt that has to be computed in one piece, and found no room beside the others' tokens.
bool Scheduler::HasStarved() const {
  if (options_.chunked_prefill) return false;
  const auto starves = [&](const Sequence& s) {
    return s.active && !s.over && s.n_pending() > kDecodeTokens &&
           std::none_of(works_.begin(), works_.end(),
                        [&](const Work& work) { return work.sequence == &s; });
  };
  return std::any_of(running_.begin(), running_.end(), [&](const auto& group) {
    return std::any_of(group->sequences.begin(), group->sequences.end(), starves);
  });
}

void Scheduler::Admit(SteadyTime now) {
  if (HasStarved()) return;  // nobody new takes a part of its steps
  while (!waiting_.empty() && tokens_left_ > 0) {
    const std::shared_ptr<Group> group = waiting_.front();
    // A higher priority takes the place of a lower one, where that one may begin again. A long wait
    // does not: two that wait for each other would take turns to begin, and neither would end.
    const bool evicts = options_.policy == SchedulerPolicy::kMaxUtilization;
    while (evicts && !CanStart(*group) && !running_.empty() &&
           running_.back()->rank < group->request.priority) {
      Preempt(*running_.back());
    }
    if (!CanStart(*group)) return;
    Start(*group, now);
    waiting_.erase(std::find(waiting_.begin(), waiting_.end(), group));
    const auto place = std::find_if(running_.begin(), running_.end(),
                                    [&](const auto& g) { return group->Before(*g); });
    running_.insert(place, group);
    for (Sequence& s : group->sequences) {
      if (group->running && s.active && !s.over && !HoldBack(*group, s)) PlanSequence(*group, s);
    }
    KeepBeamsTogether(*group);
  }
}

const std::vector<Work>& Scheduler::Plan(int64_t max_tokens, SteadyTime now) {
  works_.clear();
  max_tokens_ = tokens_left_ = max_tokens;
  others_wait_ = false;
  rows_left_ = options_.max_rows;
  pages_planned_ = 0;
  Rank(now);
  PlanRunning(/*decode=*/true);
  others_wait_ = options_.deep > 0 && options_.chunked_prefill && !works_.empty();
  PlanRunning(/*decode=*/false);
  Admit(now);
  if (works_.empty()) {  // those who were admitted took the place of all that was planned
    PlanRunning(/*decode=*/true);
    PlanRunning(/*decode=*/false);
  }
  if (prefixes_ != nullptr && pages_planned_ > cache_.free_pages()) {
    prefixes_->Evict(pages_planned_ - cache_.free_pages());
  }
  return works_;
}

}  // namespace mlf
