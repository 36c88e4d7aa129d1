// Writing to the pages of a KV cache on CUDA, in the emulator: the pages that the CPU leaves.
#include "base/thread_pool.h"
#include "check.h"
#include "cuda_array.h"
#include "cuda_emulator.h"
#include "kernels/attention.h"
#include "kernels/rope.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};

/// Slots as chunks of sequences have them: runs that begin in the middle of pages, and single ones.
OwnedArray<int64_t> Slots(int64_t tokens, int64_t entries, bool runs) {
  OwnedArray<int64_t> slots({tokens});
  for (int64_t t = 0; t < tokens; ++t) slots[t] = runs ? t + 5 : (t * 37 + 11) % entries;
  return slots;
}

template <typename T, typename S>
void TestAppend(int64_t tokens, int64_t heads, int64_t dim, bool runs, int64_t offset) {
  static const ffi::Function op = ffi::Function::GetGlobalRequired("my_llm_ffi.kv_append");
  const int64_t pages = tokens / kPageSize + 2;
  auto k = RandomArray<S>({tokens * heads * dim + offset}, 1),
       v = RandomArray<S>({tokens * heads * dim + offset}, 2);
  const auto slots = Slots(tokens, pages * kPageSize, runs);
  OwnedArray<T> want_k = RandomArray<T>({pages, heads, dim, kPageSize}, 3),
                want_v = RandomArray<T>({pages, heads, kPageSize, dim}, 4),
                got_k = OnCuda(RandomArray<T>({pages, heads, dim, kPageSize}, 3)),
                got_v = OnCuda(RandomArray<T>({pages, heads, kPageSize, dim}, 4));
  const auto from_k = From(k, offset, {tokens, heads, dim}),
             from_v = From(v, offset, {tokens, heads, dim});
  op(TensorView(want_k), TensorView(want_v), TensorView(from_k.On(kCpu)),
     TensorView(from_v.On(kCpu)), TensorView(slots));
  op(TensorView(got_k), TensorView(got_v), TensorView(from_k), TensorView(from_v),
     TensorView(slots.view.On(kCuda)));
  MLF_EXPECT(SameBits(got_k, want_k) && SameBits(got_v, want_v));
}

template <typename T, typename S>
void TestAppends() {
  for (bool runs : {true, false}) {
    for (int64_t tokens : {0, 1, 31, 32, 33, 100}) TestAppend<T, S>(tokens, 2, 64, runs, 0);
    TestAppend<T, S>(40, 3, 1, runs, 0);
    TestAppend<T, S>(40, 1, 100, runs, 0);
    TestAppend<T, S>(40, 2, 128, runs, 1);
  }
}

/// What the CPU refuses is left out.
void TestSlotsOutside() {
  auto k = OnCuda(RandomArray<float>({3, 1, 8}, 1)), v = OnCuda(RandomArray<float>({3, 1, 8}, 2)),
       k_pages = OnCuda(RandomArray<float>({2, 1, 8, kPageSize}, 3)),
       v_pages = OnCuda(RandomArray<float>({2, 1, kPageSize, 8}, 4));
  const auto old_k = k_pages.data;
  auto slots = OnCuda(OwnedArray<int64_t>({3}));
  slots[0] = -1, slots[1] = 2 * kPageSize, slots[2] = 2 * kPageSize - 1;
  kv_append_kernel(kCuda, k_pages, v_pages, k, v, slots);
  for (int64_t i = 0; i < k_pages.size(); ++i) {
    const bool written = i / kPageSize >= 8 && i % kPageSize == kPageSize - 1;
    MLF_EXPECT(k_pages[i] == (written ? k[16 + i / kPageSize - 8] : old_k[i]));
  }
}

template <typename T>
void TestRotate(int64_t heads, int64_t dim, int64_t rotary, bool interleaved) {
  OwnedArray<int64_t> entries({5});
  for (int i = 0; i < 5; ++i) entries[i] = 13 * i + 3;
  OwnedArray<int32_t> distance({1});
  distance[0] = 9;
  OwnedArray<float> angles({1, 2, rotary / 2});
  rope_angles_kernel(kCpu, angles, distance, ArrayView(), 1e4, 1.0);
  auto want = RandomArray<T>({2, heads, dim, kPageSize}, 3),
       got = RandomArray<T>({2, heads, dim, kPageSize}, 3);
  kv_rotate_kernel(kCpu, want, entries, angles, interleaved);
  kv_rotate_kernel(kCuda, got.view.On(kCuda), entries.view.On(kCuda), angles.view.On(kCuda),
                   interleaved);
  for (int64_t i = 0; i < got.size(); ++i) {
    MLF_EXPECT(std::abs(got.At(i) - want.At(i)) <=
               (sizeof(T) == 4 ? 1e-6 : 1e-2) * std::abs(want.At(i)) + 1e-6);
  }
}

template <typename T>
void TestCopyPage() {
  auto k = OnCuda(RandomArray<T>({3, 2, 5, kPageSize}, 3)),
       v = OnCuda(RandomArray<T>({3, 2, kPageSize, 5}, 4));
  const int64_t page = k.size() / 3;
  const auto old = k.data, old_v = v.data;
  kv_copy_page_kernel(kCuda, k, v, 2, 0);
  const auto same = [](const T* a, const T* b, int64_t n) {
    return std::memcmp(a, b, n * sizeof(T)) == 0;
  };
  MLF_EXPECT(same(&k[0], &old[2 * page], page) && same(&v[0], &old_v[2 * page], page));
  MLF_EXPECT(same(&k[page], &old[page], 2 * page) && same(&v[page], &old_v[page], 2 * page));
}

}  // namespace
}  // namespace mlf

int main() {
  const mlf::ThreadLimit one(1);
  using mlf::BF16;
  using mlf::F16;
  for (uint64_t seed : {1, 2}) {
    mlf::emulated::SetSeed(seed);
    mlf::TestAppends<float, float>();
    mlf::TestAppends<F16, F16>();
    mlf::TestAppends<BF16, BF16>();
    mlf::TestAppends<BF16, float>();
    mlf::TestAppends<F16, float>();
    mlf::TestAppends<float, BF16>();
    mlf::TestAppends<F16, BF16>();
    mlf::TestSlotsOutside();
    for (bool interleaved : {false, true}) {
      mlf::TestRotate<float>(2, 80, 80, interleaved);
      mlf::TestRotate<float>(1, 16, 6, interleaved);
      mlf::TestRotate<BF16>(2, 64, 32, interleaved);
    }
    mlf::TestCopyPage<float>();
    mlf::TestCopyPage<F16>();
  }
  return 0;
}
