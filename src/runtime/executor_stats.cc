// Figures of an executor. Counterpart: executor_stats.h.
#include "runtime/executor_stats.h"

namespace mlf {

void DurationHistogram::Add(double seconds) {
  int index = 0;
  for (double limit = 1e-3; index + 1 < kClasses && seconds >= limit; limit *= 2) ++index;
  ++counts_[index];
  sum_ += seconds;
}

}  // namespace mlf
