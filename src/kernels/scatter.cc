// Rows put where indices say: CPU kernel. Counterpart: scatter.h.
#include "kernels/scatter.h"

#include <algorithm>

#include "base/thread_pool.h"

namespace mlf {
namespace {

constexpr int64_t kGrain = 16 << 10;  // values that a thread takes at once: 4 us, above a wake-up

void ScatterRowsCpu(TensorView out, TensorView x, TensorView rows, double scale, bool add) {
  const int64_t n = x.size(0), cols = x.size(1);
  const auto factor = static_cast<float>(scale);
  const int32_t* row = Data<const int32_t>(rows);
  ParallelFor(n, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cols)),
              [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) {
                  const float* from = Data<const float>(x) + i * cols;
                  float* to = Data<float>(out) + row[i] * cols;
                  if (add) {
                    for (int64_t c = 0; c < cols; ++c) to[c] += factor * from[c];
                  } else {
                    for (int64_t c = 0; c < cols; ++c) to[c] = factor * from[c];
                  }
                }
              });
}

[[maybe_unused]] const bool kFilled = scatter_rows_kernel.SetCpu(ScatterRowsCpu);

}  // namespace
}  // namespace mlf
