// Writing to the pages of a KV cache on CUDA. Counterparts: attention.h (the slots), kv_append.cc.
#include "kernels/attention.h"
#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_vector.cuh"
#include "kernels/kv_append_launch.h"

namespace mlf {
namespace {

constexpr int kTokens = kAppendTokens;  // a lane each, so that a page's entries are neighbours
static_assert(kPageSize == kTokens && kWarp == kTokens);
constexpr int kAppendBlocks = 5;  // at once; at 8, which the compiler would aim at, it spills

/// Elements that go at once: 16 bytes of the wider type.
template <typename T, typename S>
inline constexpr int kLanesOf =
    16 / static_cast<int>(sizeof(T) > sizeof(S) ? sizeof(T) : sizeof(S));

/// Pages of one layer.
template <typename T>
struct Pages {
  T *k, *v;
  int64_t entries, kv_heads, head_dim;

  /// First element of a head of an entry's page.
  __device__ int64_t Head(int64_t entry, int64_t head) const {
    return (entry / kPageSize * kv_heads + head) * head_dim * kPageSize;
  }
  __device__ bool Has(int64_t entry) const { return entry >= 0 && entry < entries; }
};

template <typename T, typename S, int kN>
__device__ inline CudaVector<T, kN> Converted(const S* from) {
  const auto x = LoadConstVector(reinterpret_cast<const CudaVector<S, kN>*>(from));
  CudaVector<T, kN> y;
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    if constexpr (std::is_same_v<T, S>) {
      y.lane[i] = x.lane[i];
    } else {
      y.lane[i] = FromFloat<T>(static_cast<float>(x.lane[i]));
    }
  }
  return y;
}

/// 32 tokens of one head (blockIdx.y). Keys turn on their way: a lane reads some dimensions of its
/// token, and the lanes write each of them side by side where tokens go to consecutive entries. A
/// slot outside of the pages is left out.
template <typename T, typename S, int kN>
__global__ void __launch_bounds__(kElementThreads, kAppendBlocks)
    KvAppendKernel(const __grid_constant__ Pages<T> pages, const S* k, const S* v,
                   const int64_t* slots, int64_t tokens) {
  const int dim = static_cast<int>(pages.head_dim), thread = static_cast<int>(threadIdx.x),
            lane = thread % kWarp, of_token = dim / kN;
  for (int64_t head = blockIdx.y; head < pages.kv_heads; head += gridDim.y) {
    for (int64_t first = int64_t{blockIdx.x} * kTokens; first < tokens;
         first += int64_t{gridDim.x} * kTokens) {
      const int64_t token = first + lane, slot = token < tokens ? __ldg(slots + token) : -1;
      if (pages.Has(slot)) {
        const S* from = k + (token * pages.kv_heads + head) * dim;
        T* column = pages.k + pages.Head(slot, head) + slot % kPageSize;
        for (int d = thread / kWarp * kN; d < dim; d += kElementThreads / kWarp * kN) {
          const auto y = Converted<T, S, kN>(from + d);
#pragma unroll
          for (int i = 0; i < kN; ++i) column[(d + i) * kPageSize] = y.lane[i];
        }
      }
      for (int item = thread; item < kTokens * of_token; item += kElementThreads) {
        const int64_t t = first + item / of_token, to = t < tokens ? __ldg(slots + t) : -1;
        if (!pages.Has(to)) continue;
        const int d = item % of_token * kN;
        T* row = pages.v + pages.Head(to, head) + to % kPageSize * dim;
        StoreVector(reinterpret_cast<CudaVector<T, kN>*>(row + d),
                    Converted<T, S, kN>(v + (t * pages.kv_heads + head) * dim + d));
      }
    }
  }
}

/// The slot `my_llm_ffi.kv_append.cuda`.
void KvAppendCuda(TensorView k_pages, TensorView v_pages, TensorView k, TensorView v,
                  TensorView slots) {
  if (k.numel() == 0) return;
  const CudaCall call(
      "kv_append",
      {{"k_pages", k_pages}, {"v_pages", v_pages}, {"k", k}, {"v", v}, {"slots", slots}});
  const int64_t tokens = k.size(0), heads = k.size(1), dim = k.size(2);
  const dim3 grid(AppendBlocks(tokens), AppendHeadBlocks(heads));
  DispatchFloat(k_pages.dtype(), [&]<typename T>() {
    const Pages<T> pages{Data<T>(k_pages), Data<T>(v_pages), k_pages.size(0) * kPageSize, heads,
                         dim};
    DispatchFloat(k.dtype(), [&]<typename S>() {
      constexpr int kN = kLanesOf<T, S>;
      const S *from_k = Data<const S>(k), *from_v = Data<const S>(v);
      const bool vectors = dim % kN == 0 && IsVectorAligned(from_k) && IsVectorAligned(from_v) &&
                           IsVectorAligned(pages.v);
      const auto kernel = vectors ? KvAppendKernel<T, S, kN> : KvAppendKernel<T, S, 1>;
      call.Launch(kernel, grid, kElementThreads, 0, pages, from_k, from_v,
                  Data<const int64_t>(slots), tokens);
    });
  });
}

// ---- what the model path does beside it ---------------------------------------------------------

/// A warp to a head of an entry, lanes along its pairs.
template <typename T>
__global__ void __launch_bounds__(kElementThreads)
    KvRotateKernel(const __grid_constant__ Pages<T> pages, const int64_t* entries, int64_t count,
                   const float* cos_sin, int pairs, bool interleaved) {
  constexpr int kWarps = kElementThreads / kWarp;
  const int64_t items = count * pages.kv_heads, stride = int64_t{gridDim.x} * kWarps;
  for (int64_t item = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; item < items;
       item += stride) {
    const int64_t entry = entries[item / pages.kv_heads];
    if (!pages.Has(entry)) continue;
    T* column = pages.k + pages.Head(entry, item % pages.kv_heads) + entry % kPageSize;
    for (int i = static_cast<int>(threadIdx.x) % kWarp; i < pairs; i += kWarp) {
      T* a = column + (interleaved ? 2 * i : i) * kPageSize;
      T* b = column + (interleaved ? 2 * i + 1 : i + pairs) * kPageSize;
      const float x = static_cast<float>(*a), y = static_cast<float>(*b), cos = cos_sin[i],
                  sin = cos_sin[pairs + i];
      *a = FromFloat<T>(fmaf(x, cos, -(y * sin)));
      *b = FromFloat<T>(fmaf(x, sin, y * cos));
    }
  }
}

/// The slot `my_llm_ffi.kv_rotate.cuda`.
void KvRotateCuda(TensorView k_pages, TensorView entries, TensorView cos_sin, bool interleaved) {
  const int64_t count = entries.size(0), heads = k_pages.size(1), dim = k_pages.size(2);
  if (cos_sin.numel() == 0 || count == 0 || heads == 0) return;
  const CudaCall call("kv_rotate",
                      {{"k_pages", k_pages}, {"entries", entries}, {"cos_sin", cos_sin}});
  DispatchFloat(k_pages.dtype(), [&]<typename T>() {
    const Pages<T> pages{Data<T>(k_pages), nullptr, k_pages.size(0) * kPageSize, heads, dim};
    call.Launch(KvRotateKernel<T>, RotateBlocks(count, heads), kElementThreads, 0, pages,
                Data<const int64_t>(entries), count, Data<const float>(cos_sin),
                static_cast<int>(cos_sin.size(2)), interleaved);
  });
}

/// Pages' keys (blockIdx.y 0) and values, `count` words each.
template <typename Word>
__global__ void __launch_bounds__(kElementThreads)
    CopyPageKernel(Word* k, Word* v, int64_t src, int64_t dst, int64_t count) {
  Word* pages = blockIdx.y == 0 ? k : v;
  const int64_t stride = int64_t{gridDim.x} * kElementThreads;
  for (int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x; i < count; i += stride) {
    pages[dst * count + i] = pages[src * count + i];
  }
}

/// The slot `my_llm_ffi.kv_copy_page.cuda`.
void KvCopyPageCuda(TensorView k_pages, TensorView v_pages, int64_t src, int64_t dst) {
  if (src == dst || k_pages.numel() == 0) return;
  const CudaCall call("kv_copy_page", {{"k_pages", k_pages}, {"v_pages", v_pages}});
  const int64_t bytes = k_pages.numel() / k_pages.size(0) * DtypeBytes(k_pages.dtype());
  const auto launch = [&]<typename Word>(Word* k, Word* v) {
    const int64_t count = bytes / static_cast<int64_t>(sizeof(Word));
    call.Launch(CopyPageKernel<Word>, dim3(CopyPageBlocks(count), 2), kElementThreads, 0, k, v, src,
                dst, count);
  };
  // A page is 32 entries, which any dtype fills to 16 bytes.
  if (IsVectorAligned(Data<void>(k_pages)) && IsVectorAligned(Data<void>(v_pages))) {
    return launch(Data<uint4>(k_pages), Data<uint4>(v_pages));
  }
  launch(Data<uint16_t>(k_pages), Data<uint16_t>(v_pages));
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.kv_append.cuda", KvAppendCuda);
  RegisterCudaKernel("my_llm_ffi.kv_rotate.cuda", KvRotateCuda);
  RegisterCudaKernel("my_llm_ffi.kv_copy_page.cuda", KvCopyPageCuda);
}

}  // namespace
}  // namespace mlf
