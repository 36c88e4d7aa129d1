// Kernels over rows of logits on the CPU. Counterparts: sampling.h, sampling_simd.cc.
#include "kernels/sampling.h"

#include "base/thread_pool.h"
#include "kernels/sampling_simd.h"

namespace mlf {
namespace {

constexpr int64_t kGrain = 131072;  // logits per chunk: 4 us with AVX-512

void ArgmaxCpu(TensorView ids, TensorView logits) {
  const int64_t rows = logits.size(0), n = logits.size(1);
  int32_t* out = Data<int32_t>(ids);
  const float* x = Data<const float>(logits);
  ParallelFor(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n)),
              [&](int64_t begin, int64_t end) {
                for (int64_t r = begin; r < end; ++r) {
                  out[r] = static_cast<int32_t>(argmax_row(x + r * n, n));
                }
              });
}

[[maybe_unused]] const bool kFilled = argmax_kernel.SetCpu(ArgmaxCpu);

}  // namespace
}  // namespace mlf
