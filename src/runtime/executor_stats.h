// Figures of an executor. Counterpart: executor_stats.cc.
#pragma once
#include <array>
#include <cstdint>

namespace mlf {

/// Counts of durations, in classes that double: below 1 ms, 2 ms, 4 ms ...
class DurationHistogram {
 public:
  static constexpr int kClasses = 20;

  void Add(double seconds);
  const std::array<int64_t, kClasses>& counts() const { return counts_; }
  double sum() const { return sum_; }

 private:
  std::array<int64_t, kClasses> counts_{};
  double sum_ = 0;
};

struct ExecutorStats {
  // Now.
  int64_t waiting = 0, running = 0, unread = 0;
  int64_t blocks_total = 0, blocks_used = 0, blocks_free = 0, blocks_cached = 0;
  int64_t max_num_tokens = 0;  // of the next step
  // Since the start.
  int64_t steps = 0, requests = 0, requests_finished = 0, preemptions = 0;
  int64_t prompt_tokens = 0, cached_prompt_tokens = 0, generated_tokens = 0, computed_tokens = 0;
  int64_t prefix_tokens_looked_up = 0, prefix_tokens_hit = 0;
  double forward_seconds = 0, step_seconds = 0;    // in the network; in steps altogether
  double prefill_seconds = 0, decode_seconds = 0;  // forward, by what most of the tokens were
  int64_t prefill_tokens = 0, decode_tokens = 0;
  DurationHistogram time_to_first_token, time_between_tokens;
};

}  // namespace mlf
