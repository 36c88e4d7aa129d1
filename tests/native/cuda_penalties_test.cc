// Penalties on CUDA, in the emulator, against the CPU kernel: every dtype, padding, tokens seen
// often, rows beyond shared memory, tokens that are none.
#include "check.h"
#include "cuda_array.h"
#include "kernels/penalties.h"
#include "kernels/penalties_launch.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};

template <typename T>
void TestRows(int64_t rows, int64_t n, int64_t seen) {
  auto want = RandomArray<T>({rows, n}, n, 4.f), got = OnCuda(RandomArray<T>({rows, n}, n, 4.f));
  OwnedArray<int32_t> tokens({rows, seen}), valid({rows, seen});
  OwnedArray<float> repetition({rows}), frequency({rows}), presence({rows});
  for (int64_t i = 0; i < tokens.size(); ++i) {
    const auto token = static_cast<int32_t>(RandomBits(7, i) % (n + 2)) - 1;  // -1 and n too
    tokens[i] = i % 11 == 0 ? -5 : i % 3 == 0 ? 0 : token;
    valid[i] = tokens[i] < 0 || tokens[i] >= n ? -1 : tokens[i];  // what the CPU takes
  }
  for (int64_t r = 0; r < rows; ++r) {
    repetition[r] = 0.5f + 0.3f * static_cast<float>(r);
    frequency[r] = 0.23f * static_cast<float>(r);
    presence[r] = -0.125f;
  }
  apply_penalties_kernel(kCpu, want, valid, TensorView(repetition), TensorView(frequency),
                         TensorView(presence));
  const auto on_cuda = [](const auto& a) { return a.view.On(kCuda); };
  const ArrayView seen_tokens = on_cuda(tokens), r = on_cuda(repetition), f = on_cuda(frequency),
                  p = on_cuda(presence);
  apply_penalties_kernel(kCuda, got, seen_tokens, TensorView(r), TensorView(f), TensorView(p));
  MLF_EXPECT(SameBits(got, want));
  apply_penalties_kernel(kCuda, got, seen_tokens, std::nullopt, std::nullopt, std::nullopt);
  MLF_EXPECT(SameBits(got, want));
}

void TestSlots() {
  for (const int64_t seen : {1, 2, 3, 4096, 4097, 1 << 20}) {
    const int64_t slots = PenaltySlots(seen);
    MLF_EXPECT(slots >= 2 * seen && slots < 4 * seen && (slots & (slots - 1)) == 0);
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestSlots();
  for (const int64_t n : {1, 33, 1000, 40000}) {
    for (const int64_t seen : {1, 5, 400, 4096, 4097, 9000}) {
      mlf::TestRows<float>(5, n, seen);
      mlf::TestRows<mlf::F16>(2, n, seen);
      mlf::TestRows<mlf::BF16>(2, n, seen);
    }
  }
  return 0;
}
