// Element-wise activations on the CPU. Counterparts: activation.h, activation_simd.cc.
#include "kernels/activation.h"

#include "base/thread_pool.h"
#include "kernels/activation_simd.h"

namespace mlf {
namespace {

constexpr int64_t kGrain = 16384;  // elements per chunk: 4 us with AVX-512

void SiluMulCpu(TensorView out, TensorView gate, TensorView up) {
  float* o = Data<float>(out);
  const float *g = Data<const float>(gate), *u = Data<const float>(up);
  ParallelFor(out.numel(), kGrain, [&](int64_t begin, int64_t end) {
    silu_mul_row(o + begin, g + begin, u + begin, end - begin);
  });
}

[[maybe_unused]] const bool kFilled = silu_mul_kernel.SetCpu(SiluMulCpu);

}  // namespace
}  // namespace mlf
