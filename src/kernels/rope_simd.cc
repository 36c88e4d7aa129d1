// One head of a rotary embedding. Counterparts: rope_simd.h, rope.cc.
#include "kernels/rope_simd.h"

#include "base/simd.h"

namespace mlf::MLF_LEVEL {

void RopeNeoxHead(float* x, const float* cos, const float* sin, int64_t pairs) {
  float *low = x, *high = x + pairs;
  int64_t i = 0;
  for (; i + kLanes <= pairs; i += kLanes) {
    const F32 a = Load(low + i), b = Load(high + i), c = Load(cos + i), s = Load(sin + i);
    Store(low + i, a * c - b * s);
    Store(high + i, a * s + b * c);
  }
  for (; i < pairs; ++i) {
    const float a = low[i], b = high[i];
    low[i] = a * cos[i] - b * sin[i];
    high[i] = a * sin[i] + b * cos[i];
  }
}

// Left to the compiler, which de-interleaves with shuffles.
void RopeInterleavedHead(float* __restrict x, const float* __restrict cos,
                         const float* __restrict sin, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

}  // namespace mlf::MLF_LEVEL
