// Tests of src/runtime/scheduler: plans keep to their bounds, get somewhere, and are fair.
#include "runtime/scheduler.h"

#include <cstdlib>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "check.h"
#include "scheduler_simulation.h"

namespace mlf {
namespace {

using test::GroupSpec;
using test::Simulation;

constexpr double kNoAging = 1e12;

SchedulerOptions Options(SchedulerPolicy policy = SchedulerPolicy::kMaxUtilization) {
  return {.policy = policy, .chunked_prefill = true, .aging_ms = kNoAging, .max_rows = 64};
}

CacheShape Shape(int64_t pages, int64_t sequences = 8) {
  return {.n_ctx = 2048, .n_seq_max = sequences, .n_pages = pages};
}

// ---- one rule each ------------------------------------------------------------------------------

void TestDecodeBeforePrefill() {
  Simulation sim(Options(), Shape(64), false);
  const auto first = sim.Add({.n_prompt = 10, .max_new_tokens = 20});
  sim.Step(16);
  const auto second = sim.Add({.n_prompt = 100, .priority = 1});
  sim.Step(16);
  MLF_EXPECT(sim.last().size() == 2);
  MLF_EXPECT(sim.last()[0].group == first.get() && sim.last()[0].n == 1);
  MLF_EXPECT(sim.last()[1].group == second.get() && sim.last()[1].n == 15);
  sim.Step(16);
  MLF_EXPECT(sim.last()[0].group == first.get() && sim.last()[1].group == second.get());
}

/// Deep in a prompt a step takes fewer of its tokens, while others wait for theirs.
void TestDeepChunksAreShorter() {
  SchedulerOptions options = Options();
  options.deep = 100;
  Simulation sim(options, Shape(64), false);
  const auto alone = sim.Add({.n_prompt = 500, .max_new_tokens = 2});
  for (int i = 0; i < 5; ++i) {
    sim.Step(100);
    MLF_EXPECT(sim.last().size() == 1 && sim.last()[0].n == 100);
  }
  sim.Finish(100);
  const auto other = sim.Add({.n_prompt = 1, .max_new_tokens = 400});
  sim.Step(100);
  const auto deep = sim.Add({.n_prompt = 500, .max_new_tokens = 2});
  int64_t n_computed = 0, n_steps = 0;
  while (n_computed < 500) {
    sim.Step(100);
    MLF_EXPECT(sim.last().size() == 2 && sim.last()[0].group == other.get());
    const int64_t n = sim.last()[1].n, seen = n_computed + n;
    n_computed = seen;
    ++n_steps;
    MLF_EXPECT(n >= 1 && (n_computed == 500 || n_steps > 1 || n == 99));
    MLF_EXPECT(n + n * std::max<int64_t>(0, seen - 100) / 100 <= 99);
  }
  MLF_EXPECT(n_steps > 10 && alone->over());
  sim.Finish(100);
  MLF_EXPECT(deep->over() && sim.all_free());
}

void TestFirstComeFirstServed() {
  Simulation sim(Options(), Shape(64, 2), false);
  std::vector<std::shared_ptr<Group>> groups;
  for (int64_t i = 0; i < 6; ++i) groups.push_back(sim.Add({.n_prompt = 4 + i}));
  std::vector<const Group*> order;
  while (!sim.idle()) {
    sim.Wait(1);
    sim.Step(64);
    for (const auto& group : groups) {
      const bool known = std::find(order.begin(), order.end(), group.get()) != order.end();
      if (group->started && !known) order.push_back(group.get());
    }
  }
  for (size_t i = 0; i < groups.size(); ++i) MLF_EXPECT(order[i] == groups[i].get());
}

void TestPriorityGoesFirstAndPreempts() {
  Simulation sim(Options(), Shape(64, 2), false);
  const auto low = sim.Add({.max_new_tokens = 50});
  const auto other = sim.Add({.max_new_tokens = 50});
  sim.Step(64);
  const auto waits = sim.Add({.max_new_tokens = 50});
  const auto high = sim.Add({.max_new_tokens = 50, .priority = 2});
  sim.Step(64);
  MLF_EXPECT(low->running && high->running && !other->running && !waits->running);
  MLF_EXPECT(sim.scheduler().n_preemptions() == 1);
  // The one that had to go was there before the one that waits.
  sim.Cancel(*high);
  sim.Step(64);
  MLF_EXPECT(low->running && other->running && !waits->running);
  sim.Finish(64);
  MLF_EXPECT(sim.all_free());
}

void TestMemoryTakesTheLastInRank() {
  // Three that fit as they begin, and not as they end.
  Simulation sim(Options(), Shape(8), false);
  std::vector<std::shared_ptr<Group>> groups;
  for (int i = 0; i < 3; ++i) groups.push_back(sim.Add({.n_prompt = 40, .max_new_tokens = 100}));
  sim.Step(1000);
  for (const auto& group : groups) MLF_EXPECT(group->running);
  while (groups[2]->running) sim.Step(1000);
  MLF_EXPECT(groups[0]->running && groups[1]->running);
  const size_t n_tokens = groups[2]->sequences.front().tokens.size();
  MLF_EXPECT(n_tokens > 40);  // what was generated is kept
  sim.Finish(1000);
  MLF_EXPECT(sim.scheduler().n_preemptions() >= 1 && sim.all_free());
}

void TestAgingLetsTheOldGoFirst() {
  SchedulerOptions options = Options();
  options.aging_ms = 10;
  Simulation sim(options, Shape(64, 1), false);
  const auto runs = sim.Add({.max_new_tokens = 3, .priority = 5});
  sim.Step(64);
  const auto old = sim.Add({.max_new_tokens = 3});
  sim.Wait(35);
  const auto fresh = sim.Add({.max_new_tokens = 3, .priority = 2});
  while (!runs->over()) sim.Step(64);
  sim.Step(64);
  MLF_EXPECT(old->running && !fresh->running);
  // It keeps the rank that waiting gave it.
  sim.Add({.priority = 3});
  sim.Step(64);
  MLF_EXPECT(old->running || old->over());
  sim.Finish(64);
}

void TestAgingDoesNotThrash() {
  // Two that never fit together, whose prompts take longer than waits count.
  SchedulerOptions options = Options();
  options.aging_ms = 10;
  for (const bool prefixes : {false, true}) {
    Simulation sim(options, Shape(12), prefixes);
    for (int i = 0; i < 2; ++i) {
      sim.Add({.n_prompt = 300, .root = "r", .text = static_cast<uint64_t>(i)});
      sim.Wait(5);
    }
    int64_t steps = 0;
    for (; !sim.idle(); ++steps) {
      sim.Step(16);
      sim.Wait(25);
      MLF_EXPECT(steps < 200);
    }
    MLF_EXPECT(sim.scheduler().n_preemptions() == 0);
  }
}

void TestNoEvictWaitsForAll() {
  Simulation sim(Options(SchedulerPolicy::kGuaranteedNoEvict), Shape(8), false);
  const auto first = sim.Add({.n_prompt = 40, .max_new_tokens = 100});   // 5 pages in the end
  const auto second = sim.Add({.n_prompt = 40, .max_new_tokens = 100});  // so has to wait
  const auto third = sim.Add({.n_prompt = 8, .max_new_tokens = 8});      // which would fit
  sim.Step(1000);
  MLF_EXPECT(first->running && !second->running && !third->running);
  sim.Finish(1000);
  MLF_EXPECT(sim.scheduler().n_preemptions() == 0 && sim.all_free());
}

void TestPrefixIsTaken() {
  Simulation sim(Options(), Shape(64), true);
  const GroupSpec spec{.n_prompt = 100, .max_new_tokens = 2, .root = "r"};
  sim.Add(spec);
  sim.Finish(1000);
  const auto again = sim.Add(spec);
  sim.Step(1000);
  MLF_EXPECT(again->cached_tokens == 96 && sim.last().front().n == 4);
  const auto other = sim.Add({.n_prompt = 100, .max_new_tokens = 2, .root = "s"});
  sim.Step(1000);
  MLF_EXPECT(other->cached_tokens == 0);
  // The last token of a prompt is computed, even where all of it is known.
  const auto whole = sim.Add({.n_prompt = 96, .max_new_tokens = 2, .root = "r"});
  sim.Step(1000);
  MLF_EXPECT(whole->cached_tokens == 64);
  sim.Finish(1000);
  MLF_EXPECT(sim.all_free());
}

void TestForkSharesThePrompt() {
  Simulation sim(Options(), Shape(64), false);
  const auto group = sim.Add({.n_prompt = 70, .max_new_tokens = 10, .n = 4});
  sim.Step(1000);
  MLF_EXPECT(sim.last().size() == 1 && sim.last().front().n == 70);
  const int64_t used = 64 - sim.cache().free_pages();
  MLF_EXPECT(used == 2 + 4);  // whole pages once, the last one for each
  sim.Step(1000);
  MLF_EXPECT(sim.last().size() == 4);
  sim.Finish(1000);
  MLF_EXPECT(sim.all_free());
}

void TestBeamsWaitForEachOther() {
  // A budget that holds all beams and no more: others go in between.
  Simulation sim(Options(), Shape(64), false);
  const auto beams = sim.Add({.n_prompt = 3, .max_new_tokens = 20, .beam_width = 4});
  sim.Step(4);
  const auto high = sim.Add({.n_prompt = 4, .max_new_tokens = 6, .priority = 1});
  while (!high->over()) {
    sim.Step(4);
    if (high->prompt_done && !high->over()) MLF_EXPECT(!sim.WasPlanned(*beams));
  }
  sim.Finish(4);
  MLF_EXPECT(sim.all_free());
}

void TestWithoutChunks() {
  SchedulerOptions options = Options();
  options.chunked_prefill = false;
  Simulation sim(options, Shape(64), false);
  const auto first = sim.Add({.n_prompt = 20, .max_new_tokens = 30});
  const auto second = sim.Add({.n_prompt = 20, .max_new_tokens = 30});
  sim.Step(32);
  MLF_EXPECT(sim.last().size() == 1 && sim.last().front().n == 20);
  sim.Step(32);
  MLF_EXPECT(sim.last().size() == 2 && sim.last()[1].n == 20);
  // Short ones that come later must not keep a long one from having a step of its own.
  const auto whole = sim.Add({.n_prompt = 32, .max_new_tokens = 2});
  for (int i = 0; i < 100 && !whole->over(); ++i) {
    sim.Add({.n_prompt = 2, .max_new_tokens = 3});
    sim.Step(32);
  }
  MLF_EXPECT(whole->over() && second->over());
  sim.Finish(32);
  MLF_EXPECT(first->over() && sim.all_free());
}

// ---- any mix ------------------------------------------------------------------------------------

struct Mix {
  SchedulerOptions options;
  CacheShape shape;
  int64_t max_tokens;
  bool prefixes, priorities;
};

Mix RandomMix(uint64_t seed) {
  const auto random = [&](uint64_t i, uint64_t n) { return RandomBits(seed, 1000 + i) % n; };
  Mix mix;
  mix.options = Options(random(0, 3) == 0 ? SchedulerPolicy::kGuaranteedNoEvict
                                          : SchedulerPolicy::kMaxUtilization);
  mix.options.chunked_prefill = random(1, 4) != 0;
  mix.shape = {.n_ctx = static_cast<int64_t>(40 + random(2, 400)),
               .n_seq_max = static_cast<int64_t>(1 + random(3, 12)),
               .n_pages = static_cast<int64_t>(3 + random(4, 60))};
  mix.options.max_rows = mix.shape.n_seq_max + static_cast<int64_t>(random(5, 33));
  mix.max_tokens = static_cast<int64_t>(1 + random(6, 2) * random(7, 300) + random(8, 24));
  mix.prefixes = random(9, 3) != 0;
  mix.priorities = random(10, 2) == 0;
  if (random(11, 3) == 0) mix.options.aging_ms = 5;
  if (random(12, 2) == 0) mix.options.deep = static_cast<int64_t>(1 + random(13, 200));
  return mix;
}

GroupSpec RandomSpec(const Mix& mix, uint64_t seed) {
  const auto random = [&](uint64_t i, int64_t n) {
    return static_cast<int64_t>(RandomBits(seed, i) % static_cast<uint64_t>(n));
  };
  GroupSpec spec;
  spec.n_prompt = 1 + random(0, random(1, 2) == 0 ? 20 : mix.shape.n_ctx - 1);
  if (!mix.options.chunked_prefill) spec.n_prompt = std::min(spec.n_prompt, mix.max_tokens);
  spec.max_new_tokens = 1 + random(2, 60);
  const int64_t most = std::min<int64_t>(mix.shape.n_seq_max, 6);
  if (random(3, 4) == 0) spec.n = 1 + random(4, most);
  if (random(5, 5) == 0) spec.beam_width = 1 + random(6, std::min(most, mix.max_tokens));
  if (spec.beam_width > 1) spec.n = 1;
  if (random(7, 6) == 0) spec.prompt_logprobs = 1;
  if (mix.priorities) spec.priority = static_cast<double>(random(8, 3));
  spec.root = random(9, 4) == 0 ? "" : "root";
  spec.text = seed;
  spec.n_shared = random(10, spec.n_prompt + 1);
  return spec;
}

void TestAnyMix(uint64_t seed) {
  const Mix mix = RandomMix(seed);
  Simulation sim(mix.options, mix.shape, mix.prefixes);
  sim.Force();
  std::vector<std::shared_ptr<Group>> groups;
  constexpr int64_t kGroups = 40;
  for (uint64_t draw = 0; groups.size() < kGroups || !sim.idle(); ++draw) {
    MLF_EXPECT(draw < 100'000);
    const uint64_t bits = RandomBits(seed, draw);
    if (groups.size() < kGroups && (sim.idle() || bits % 4 == 0)) {
      const auto group = sim.NewGroup(RandomSpec(mix, bits));
      groups.push_back(group);
      if (sim.scheduler().Fits(*group)) {
        sim.scheduler().Add(group);
      } else {
        for (Sequence& s : group->sequences) s.over = true;
      }
    }
    if (bits % 29 == 0) sim.Cancel(*groups[bits / 29 % groups.size()]);
    sim.Wait(static_cast<double>(1 + bits % 7));
    sim.Step(mix.max_tokens);
  }
  for (const auto& group : groups) MLF_EXPECT(group->over());
  MLF_EXPECT(sim.all_free());
  const bool evicts = mix.options.policy == SchedulerPolicy::kMaxUtilization;
  MLF_EXPECT(evicts || sim.scheduler().n_preemptions() == 0);
  if (sim.prefixes() != nullptr) sim.prefixes()->Clear();
  MLF_EXPECT(sim.cache().free_pages() == sim.cache().n_pages());
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestDecodeBeforePrefill();
  mlf::TestDeepChunksAreShorter();
  mlf::TestFirstComeFirstServed();
  mlf::TestPriorityGoesFirstAndPreempts();
  mlf::TestMemoryTakesTheLastInRank();
  mlf::TestAgingLetsTheOldGoFirst();
  mlf::TestAgingDoesNotThrash();
  mlf::TestNoEvictWaitsForAll();
  mlf::TestPrefixIsTaken();
  mlf::TestForkSharesThePrompt();
  mlf::TestBeamsWaitForEachOther();
  mlf::TestWithoutChunks();
  const char* emulated = std::getenv("MLF_TEST_EMULATED");
  const uint64_t n_mixes = emulated == nullptr ? 1000 : 20;
  for (uint64_t seed = 1; seed <= n_mixes; ++seed) mlf::TestAnyMix(seed);
  return 0;
}
