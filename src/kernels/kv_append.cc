// Writing to the pages of a KV cache: checks, CPU, registration. Counterparts: attention.h,
// convert.h.
#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/op.h"
#include "base/thread_pool.h"
#include "kernels/attention.h"
#include "kernels/convert.h"
#include "kernels/rope_simd.h"

namespace mlf {
namespace {

constexpr int64_t kEntryGrain = 64;
constexpr int64_t kAppendGrain = 4096;  // elements per chunk: keys go to a line each

/// Pages of one layer.
template <typename T>
struct Pages {
  T* k;
  T* v;
  int64_t kv_heads, head_dim;
  Pages(const TensorView& k_pages, const TensorView& v_pages)
      : k(Data<T>(k_pages)),
        v(Data<T>(v_pages)),
        kv_heads(k_pages.size(1)),
        head_dim(k_pages.size(2)) {}
  /// First element of a head of an entry's page.
  int64_t Head(int64_t entry, int64_t head) const {
    return (entry / kPageSize * kv_heads + head) * head_dim * kPageSize;
  }
};

/// Consecutive tokens that go to consecutive entries of one page.
struct EntryRun {
  int64_t token, entry, n;
};

std::vector<EntryRun> CutIntoRuns(const TensorView& slots) {
  const int64_t tokens = slots.size(0);
  const int64_t* slot = Data<const int64_t>(slots);
  std::vector<EntryRun> runs;
  for (int64_t t = 0; t < tokens;) {
    int64_t end = t + 1;
    while (end < tokens && slot[end] == slot[end - 1] + 1 && slot[end] % kPageSize != 0) ++end;
    runs.push_back({t, slot[t], end - t});
    t = end;
  }
  return runs;
}

/// Writes one head of tokens to pages of T.
template <typename T, typename S>
class Appender {
 public:
  Appender(const Pages<T>& pages, const S* k, const S* v)
      : pages_(pages),
        k_(k),
        v_(v),
        key_(std::make_unique_for_overwrite<T[]>(pages.head_dim)),
        wide_(std::make_unique_for_overwrite<float[]>(pages.head_dim * kPageSize)) {}

  void Append(const EntryRun& run, int64_t head) {
    const int64_t dim = pages_.head_dim, stride = pages_.kv_heads * dim,
                  from = run.token * stride + head * dim, offset = run.entry % kPageSize;
    T *k = pages_.k + pages_.Head(run.entry, head),
      *v = pages_.v + pages_.Head(run.entry, head) + offset * dim;
    if (run.n == kPageSize) {
      AppendPage(k, k_ + from, stride);
    } else {
      for (int64_t i = 0; i < run.n; ++i) AppendKey(k + offset + i, k_ + from + i * stride);
    }
    for (int64_t i = 0; i < run.n; ++i) {
      Convert(v + i * dim, v_ + from + i * stride, dim, wide_.get());
    }
  }

 private:
  void AppendPage(T* page, const S* keys, int64_t stride) {
    if constexpr (std::is_same_v<T, float>) {
      Transpose32(page, keys, stride, kPageSize, pages_.head_dim);
    } else {
      Transpose32(wide_.get(), keys, stride, kPageSize, pages_.head_dim);
      Convert(page, wide_.get(), pages_.head_dim * kPageSize);
    }
  }

  void AppendKey(T* column, const S* key) {
    Convert(key_.get(), key, pages_.head_dim, wide_.get());
    for (int64_t d = 0; d < pages_.head_dim; ++d) column[d * kPageSize] = key_[d];
  }

  const Pages<T>& pages_;
  const S *k_, *v_;
  std::unique_ptr<T[]> key_;
  std::unique_ptr<float[]> wide_;
};

template <typename T, typename S>
void Append(TensorView k_pages, TensorView v_pages, TensorView k, TensorView v, TensorView slots) {
  const Pages<T> pages(k_pages, v_pages);
  const std::vector<EntryRun> runs = CutIntoRuns(slots);
  const auto items = static_cast<int64_t>(runs.size()) * pages.kv_heads;
  const int64_t grain = std::max<int64_t>(1, kAppendGrain * items / k.numel());
  ParallelFor(items, grain, [&](int64_t begin, int64_t end) {
    Appender<T, S> appender(pages, Data<const S>(k), Data<const S>(v));
    for (int64_t i = begin; i < end; ++i) {
      appender.Append(runs[i / pages.kv_heads], i % pages.kv_heads);
    }
  });
}

void KvAppendCpu(TensorView k_pages, TensorView v_pages, TensorView k, TensorView v,
                 TensorView slots) {
  if (k.numel() == 0) return;
  DispatchFloat(k_pages.dtype(), [&]<typename T>() {
    DispatchFloat(k.dtype(), [&]<typename S>() { Append<T, S>(k_pages, v_pages, k, v, slots); });
  });
}

template <typename T>
void Rotate(TensorView k_pages, TensorView entries, TensorView cos_sin, bool interleaved) {
  const Pages<T> pages(k_pages, k_pages);
  const int64_t pairs = cos_sin.size(2), dims = 2 * pairs;
  const int64_t* entry = Data<const int64_t>(entries);
  const float *cos = Data<const float>(cos_sin), *sin = cos + pairs;
  const auto rotate = interleaved ? rope_interleaved_head_f32 : rope_neox_head_f32;
  ParallelFor(entries.size(0), kEntryGrain, [&](int64_t begin, int64_t end) {
    const auto stored = std::make_unique_for_overwrite<T[]>(dims);
    const auto key = std::make_unique_for_overwrite<float[]>(dims);
    for (int64_t i = begin * pages.kv_heads; i < end * pages.kv_heads; ++i) {
      const int64_t e = entry[i / pages.kv_heads];
      T* column = pages.k + pages.Head(e, i % pages.kv_heads) + e % kPageSize;
      for (int64_t d = 0; d < dims; ++d) stored[d] = column[d * kPageSize];
      Convert(key.get(), stored.get(), dims);
      rotate(key.get(), cos, sin, pairs);
      Convert(stored.get(), key.get(), dims);
      for (int64_t d = 0; d < dims; ++d) column[d * kPageSize] = stored[d];
    }
  });
}

void KvRotateCpu(TensorView k_pages, TensorView entries, TensorView cos_sin, bool interleaved) {
  if (cos_sin.numel() == 0) return;
  DispatchFloat(k_pages.dtype(),
                [&]<typename T>() { Rotate<T>(k_pages, entries, cos_sin, interleaved); });
}

void KvCopyPageCpu(TensorView k_pages, TensorView v_pages, int64_t src, int64_t dst) {
  if (src == dst) return;
  for (const TensorView& pages : {k_pages, v_pages}) {
    const int64_t bytes = pages.numel() / pages.size(0) * DtypeBytes(pages.dtype());
    char* data = Data<char>(pages);
    std::memcpy(data + dst * bytes, data + src * bytes, bytes);
  }
}

[[maybe_unused]] const bool kFilled = kv_append_kernel.SetCpu(KvAppendCpu) &&
                                      kv_rotate_kernel.SetCpu(KvRotateCpu) &&
                                      kv_copy_page_kernel.SetCpu(KvCopyPageCpu);

// ---- the op -------------------------------------------------------------------------------------

const Op kKvAppend{
    "kv_append",
    "(k_pages: Mut['pages kv_heads head_dim 32', 'f32 f16 bf16'], "
    "v_pages: Mut['pages kv_heads 32 head_dim', 'like k_pages'], "
    "k: T['tokens kv_heads head_dim', 'f32 f16 bf16'], "
    "v: T['tokens kv_heads head_dim', 'like k'], slots: T['tokens', 'i64']) -> None",
    R"(Writes keys and values to entries of a paged cache, rounded to the pages' dtype.

``k_pages[p, :, :, e] = k[t]`` and ``v_pages[p, :, e, :] = v[t]`` for page ``p = slots[t] // 32`` and
entry ``e = slots[t] % 32``: keys are stored transposed, as paged_attention wants them. Nothing is
written when a slot is refused. IndexError where a slot is outside the pages; on CUDA, where slots
are not looked at before, such a token is left out, and of two alike any one may stay.

k_pages: Keys of each page.
v_pages: Values of each page.
k: Keys to write, one row per token.
v: Values to write.
slots: Entry of each token, page * 32 + offset; no two alike.
)"};

void CheckSlots(const TensorView& slots, int64_t pages) {
  const int64_t n = slots.size(0), entries = pages * kPageSize;
  const int64_t* slot = Data<const int64_t>(slots);
  bool ascending = true;
  for (int64_t t = 0; t < n; ++t) {
    if (slot[t] < 0 || slot[t] >= entries) {
      TVM_FFI_THROW(IndexError) << kKvAppend.name() << ": slots[" << t << "] is " << slot[t]
                                << ", expected one of the " << entries << " entries of " << pages
                                << " pages";
    }
    ascending = ascending && (t == 0 || slot[t - 1] < slot[t]);
  }
  if (ascending) return;
  std::vector<std::pair<int64_t, int64_t>> sorted(n);
  for (int64_t t = 0; t < n; ++t) sorted[t] = {slot[t], t};
  std::sort(sorted.begin(), sorted.end());
  for (int64_t i = 1; i < n; ++i) {
    const auto [a, b] = std::pair(sorted[i - 1], sorted[i]);
    kKvAppend.That(a.first != b.first, "slots[", a.second, "] and slots[", b.second, "] are both ",
                   a.first);
  }
}

void KvAppend(TensorView k_pages, TensorView v_pages, TensorView k, TensorView v,
              TensorView slots) {
  kKvAppend.Check(k_pages, v_pages, k, v, slots);
  // Slots on another device are that device's kernel to check: this call reads no memory there.
  if (k.device().device_type == kDLCPU) CheckSlots(slots, k_pages.size(0));
  if (k.numel() != 0) kv_append_kernel(k.device(), k_pages, v_pages, k, v, slots);
}

TVM_FFI_STATIC_INIT_BLOCK() { kKvAppend.Register(KvAppend); }

}  // namespace
}  // namespace mlf
