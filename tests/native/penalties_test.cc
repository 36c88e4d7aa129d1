// Penalties for tokens that were seen: a float64 reference at every dtype, padding, counts.
#include "kernels/penalties.h"

#include <map>

#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

template <typename T>
void TestRows(int64_t rows, int64_t n, int64_t seen) {
  const auto x = RandomArray<T>({rows, n}, n, 4.f);
  auto out = RandomArray<T>({rows, n}, n, 4.f);
  OwnedArray<int32_t> tokens({rows, seen});
  for (int64_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(RandomBits(7, i) % (n + 1)) - 1;  // -1 too
  }
  OwnedArray<float> repetition({rows}), frequency({rows}), presence({rows});
  for (int64_t r = 0; r < rows; ++r) {
    repetition[r] = 0.5f + static_cast<float>(r);
    frequency[r] = 0.25f * static_cast<float>(r);
    presence[r] = -0.125f;
  }
  apply_penalties_kernel({kDLCPU, 0}, out, tokens, TensorView(repetition), TensorView(frequency),
                         TensorView(presence));
  for (int64_t r = 0; r < rows; ++r) {
    std::map<int64_t, int> counts;
    for (int64_t i = 0; i < seen; ++i) ++counts[tokens[r * seen + i]];
    for (int64_t i = 0; i < n; ++i) {
      double want = x.At(r * n + i);
      if (counts.count(i) != 0) {
        want = (want > 0 ? want / repetition[r] : want * repetition[r]) -
               counts[i] * double{frequency[r]} - presence[r];
      }
      MLF_EXPECT(out.At(r * n + i) == static_cast<float>(FromFloat<T>(static_cast<float>(want))));
    }
  }
}

}  // namespace
}  // namespace mlf

int main() {
  for (const int64_t n : {1, 33, 1000}) {
    for (const int64_t seen : {1, 5, 400}) {
      mlf::TestRows<float>(20, n, seen);
      mlf::TestRows<mlf::F16>(3, n, seen);
      mlf::TestRows<mlf::BF16>(3, n, seen);
    }
  }
  return 0;
}
