// Attention over a paged KV cache on the CPU. Counterparts: attention.h, attention_simd.cc.
#include "kernels/attention.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/attention_simd.h"
#include "kernels/rope_simd.h"

namespace mlf {
namespace {

static_assert(kPageSize == 32, "attention_simd.cc holds the entries of a page in 32 bits");

constexpr int64_t kBlockRows = 32;  // queries that share the loads of a page; scratch stays in L2
constexpr int64_t kSerialMultiplies = 400'000;  // 8 us with AVX-512: less is not worth a wake-up
constexpr int64_t kEntryGrain = 64;
constexpr int64_t kAppendGrain = 16384;  // elements per chunk

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
  int64_t head_size() const { return head_dim * kPageSize; }
  /// First element of a head of an entry's page.
  int64_t Head(int64_t entry, int64_t head) const {
    return (entry / kPageSize * kv_heads + head) * head_size();
  }
};

void Widen(float* out, const float* x, int64_t n) { std::memcpy(out, x, n * sizeof(float)); }
void Widen(float* out, const F16* x, int64_t n) { widen_f16(out, x, n); }
void Narrow(float* out, const float* x, int64_t n) { std::memcpy(out, x, n * sizeof(float)); }
void Narrow(F16* out, const float* x, int64_t n) { narrow_to_f16(out, x, n); }

// ---- paged_attention ----------------------------------------------------------------------------

struct TokenBlock {
  int64_t first, tokens;
  const int32_t* pages;
  int64_t n_pages;
};

/// Cuts the tokens into runs of one table row, short enough that their queries fill a block.
std::vector<TokenBlock> CutIntoBlocks(const TensorView& block_table, const TensorView& token_row,
                                      int64_t group) {
  const int64_t tokens = token_row.size(0), max_pages = block_table.size(1),
                most = std::max<int64_t>(1, kBlockRows / group);
  const int32_t *table = Data<const int32_t>(block_table), *row = Data<const int32_t>(token_row);
  std::vector<TokenBlock> blocks;
  for (int64_t t = 0; t < tokens;) {
    int64_t end = t + 1;
    while (end < tokens && end < t + most && row[end] == row[t]) ++end;
    const int32_t* pages = table + row[t] * max_pages;
    const int32_t* last = std::find_if(pages, pages + max_pages, [](int32_t p) { return p < 0; });
    blocks.push_back({t, end - t, pages, last - pages});
    t = end;
  }
  return blocks;
}

/// Scratch of one block, each part on its own cache lines.
class BlockMemory {
 public:
  BlockMemory(int64_t rows, int64_t head_dim) {
    const int64_t dim = Lines(head_dim);
    const int64_t sizes[] = {rows * head_dim,      rows * dim,      rows, rows * kLine,
                             head_dim * kPageSize, kPageSize * dim, rows, rows};
    int64_t total = 0;
    for (int64_t n : sizes) total += Lines(n);
    memory_.reset(::operator new(total * sizeof(float), kAlign));
    auto* next = static_cast<float*>(memory_.get());
    float* part[std::size(sizes)];
    for (size_t i = 0; i < std::size(sizes); ++i) {
      part[i] = next;
      next += Lines(sizes[i]);
    }
    scratch_ = {part[0],
                part[1],
                part[2],
                part[3],
                part[4],
                part[5],
                reinterpret_cast<int32_t*>(part[6]),
                reinterpret_cast<uint32_t*>(part[7])};
  }

  const AttentionScratch& scratch() const { return scratch_; }

 private:
  static constexpr int64_t kLine = 16;  // floats
  static constexpr std::align_val_t kAlign{64};
  static int64_t Lines(int64_t n) { return (n + kLine - 1) / kLine * kLine; }
  struct Free {
    void operator()(void* p) const { ::operator delete(p, kAlign); }
  };

  std::unique_ptr<void, Free> memory_;
  AttentionScratch scratch_;
};

template <typename T>
void PagedAttention(TensorView out, TensorView q, TensorView k_pages, TensorView v_pages,
                    TensorView page_positions, TensorView block_table, TensorView token_row,
                    TensorView token_position, double scale) {
  const Pages<const T> pages(k_pages, v_pages);
  const int64_t heads = q.size(1), group = heads / pages.kv_heads, head_dim = pages.head_dim;
  const std::vector<TokenBlock> blocks = CutIntoBlocks(block_table, token_row, group);
  const auto run = [&](const TokenBlock& block, int64_t kv_head) {
    const int64_t first = (block.first * heads + kv_head * group) * head_dim;
    const BlockMemory memory(block.tokens * group, head_dim);
    const AttentionBlock b{.out = Data<float>(out) + first,
                           .q = Data<const float>(q) + first,
                           .tokens = block.tokens,
                           .group = group,
                           .head_dim = head_dim,
                           .token_stride = heads * head_dim,
                           .k_pages = pages.k + pages.Head(0, kv_head),
                           .v_pages = pages.v + pages.Head(0, kv_head),
                           .page_stride = pages.kv_heads * pages.head_size(),
                           .pages = block.pages,
                           .positions = Data<const int32_t>(page_positions),
                           .n_pages = block.n_pages,
                           .token_positions = Data<const int32_t>(token_position) + block.first,
                           .scale = static_cast<float>(scale),
                           .scratch = memory.scratch()};
    if constexpr (std::is_same_v<T, float>) {
      attention_block_f32(b);
    } else {
      attention_block_f16(b);
    }
  };
  int64_t multiplies = 0;
  for (const TokenBlock& b : blocks) {
    multiplies += 2 * b.tokens * heads * b.n_pages * pages.head_size();
  }
  const auto items = static_cast<int64_t>(blocks.size()) * pages.kv_heads;
  ParallelFor(items, multiplies < kSerialMultiplies ? items : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run(blocks[i / pages.kv_heads], i % pages.kv_heads);
  });
}

void PagedAttentionCpu(TensorView out, TensorView q, TensorView k_pages, TensorView v_pages,
                       TensorView page_positions, TensorView block_table, TensorView token_row,
                       TensorView token_position, double scale) {
  const auto run = k_pages.dtype() == kF16 ? PagedAttention<F16> : PagedAttention<float>;
  if (out.numel() == 0) return;
  run(out, q, k_pages, v_pages, page_positions, block_table, token_row, token_position, scale);
}

// ---- writing to the cache -----------------------------------------------------------------------

template <typename T>
void Append(TensorView k_pages, TensorView v_pages, TensorView k, TensorView v, TensorView slots) {
  const Pages<T> pages(k_pages, v_pages);
  const int64_t row = pages.kv_heads * pages.head_dim, head_dim = pages.head_dim;
  const int64_t* slot = Data<const int64_t>(slots);
  const float *keys = Data<const float>(k), *values = Data<const float>(v);
  const auto append = [&](int64_t begin, int64_t end) {
    const auto key = std::make_unique_for_overwrite<T[]>(head_dim);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / pages.kv_heads, head = i % pages.kv_heads;
      const int64_t source = t * row + head * head_dim, offset = slot[t] % kPageSize,
                    page = pages.Head(slot[t], head);
      Narrow(key.get(), keys + source, head_dim);
      for (int64_t d = 0; d < head_dim; ++d) pages.k[page + d * kPageSize + offset] = key[d];
      Narrow(pages.v + page + offset * head_dim, values + source, head_dim);
    }
  };
  ParallelFor(k.size(0) * pages.kv_heads, std::max<int64_t>(1, kAppendGrain / head_dim), append);
}

void KvAppendCpu(TensorView k_pages, TensorView v_pages, TensorView k, TensorView v,
                 TensorView slots) {
  if (k.numel() == 0) return;
  const auto append = k_pages.dtype() == kF16 ? Append<F16> : Append<float>;
  append(k_pages, v_pages, k, v, slots);
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
      Widen(key.get(), stored.get(), dims);
      rotate(key.get(), cos, sin, pairs);
      Narrow(stored.get(), key.get(), dims);
      for (int64_t d = 0; d < dims; ++d) column[d * kPageSize] = stored[d];
    }
  });
}

void KvRotateCpu(TensorView k_pages, TensorView entries, TensorView cos_sin, bool interleaved) {
  if (cos_sin.numel() == 0) return;
  const auto rotate = k_pages.dtype() == kF16 ? Rotate<F16> : Rotate<float>;
  rotate(k_pages, entries, cos_sin, interleaved);
}

void KvCopyPageCpu(TensorView k_pages, TensorView v_pages, int64_t src, int64_t dst) {
  if (src == dst) return;
  for (const TensorView& pages : {k_pages, v_pages}) {
    const int64_t bytes = pages.numel() / pages.size(0) * DtypeBytes(pages.dtype());
    char* data = Data<char>(pages);
    std::memcpy(data + dst * bytes, data + src * bytes, bytes);
  }
}

[[maybe_unused]] const bool kFilled =
    kv_append_kernel.SetCpu(KvAppendCpu) && paged_attention_kernel.SetCpu(PagedAttentionCpu) &&
    kv_rotate_kernel.SetCpu(KvRotateCpu) && kv_copy_page_kernel.SetCpu(KvCopyPageCpu);

}  // namespace
}  // namespace mlf
