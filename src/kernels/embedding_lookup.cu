// Rows of a table on CUDA. Counterparts: linear.h (the slot), embedding_lookup.cc.
#include "kernels/cuda_blocks.cuh"
#include "kernels/cuda_elements_launch.h"
#include "kernels/cuda_launch.cuh"
#include "kernels/embedding_lookup_launch.h"
#include "kernels/linear.h"

namespace mlf {
namespace {

/// Which rows: int32 or int64 ids. One outside of the table gives a row of zeros.
struct Ids {
  const void* ids;
  bool wide;
  int64_t count, rows;

  /// Row of the table for output row t, or -1.
  __device__ int64_t operator[](int64_t t) const {
    const int64_t id = wide ? __ldg(static_cast<const int64_t*>(ids) + t)
                            : __ldg(static_cast<const int*>(ids) + t);
    return id >= 0 && id < rows ? id : -1;
  }
};

/// Copies rows of `words` words each.
template <typename Word>
__global__ void __launch_bounds__(kLookupThreads)
    CopyRowsKernel(Word* out, const Word* table, Ids ids, int64_t words) {
  for (int64_t t = blockIdx.x; t < ids.count; t += gridDim.x) {
    const int64_t id = ids[t];
    const int64_t stride = int64_t{gridDim.y} * kLookupThreads;
    for (int64_t i = int64_t{blockIdx.y} * kLookupThreads + threadIdx.x; i < words; i += stride) {
      out[t * words + i] = id < 0 ? Word{} : __ldg(table + id * words + i);
    }
  }
}

/// Rows of the file's layout as float32.
template <typename F>
__global__ void __launch_bounds__(kLookupThreads)
    LookUpKernel(float* out, const uint8_t* table, Ids ids, int64_t cols, bool aligned) {
  constexpr int kN = kVectorLanes<float>;
  const int64_t stride = int64_t{gridDim.y} * kLookupThreads * kN;
  for (int64_t t = blockIdx.x; t < ids.count; t += gridDim.x) {
    const int64_t id = ids[t];
    const uint8_t* row = BlockAt<F>(table, max(id, int64_t{0}) * cols);
    for (int64_t k = (int64_t{blockIdx.y} * kLookupThreads + threadIdx.x) * kN; k < cols;
         k += stride) {
      float* to = out + t * cols + k;
      if (kIsBlockFormat<F> || k + kN <= cols) {
        float w[kN] = {};
        if (id >= 0) DecodeWeights<F>(row, k, w);
        StoreFloats(to, w, aligned);
      } else if constexpr (!kIsBlockFormat<F>) {
        for (int i = 0; i < cols - k; ++i) {
          float w[1] = {};
          if (id >= 0) DecodeWeights<F>(row, k + i, w);
          to[i] = w[0];
        }
      }
    }
  }
}

/// Rows of a tiled table as float32: a thread takes a block out of its tile into shared memory.
template <typename F>
__global__ void __launch_bounds__(kTiledLookupThreads)
    LookUpTiledKernel(float* out, const uint8_t* table, Ids ids, int64_t cols) {
  alignas(16) __shared__ uint8_t taken[kTiledLookupThreads * F::kBytes];
  const int64_t blocks = cols / F::kWeights, stride = int64_t{gridDim.y} * kTiledLookupThreads;
  for (int64_t t = blockIdx.x; t < ids.count; t += gridDim.x) {
    const int64_t id = ids[t], group = max(id, int64_t{0}) / kTileRows;
    const uint8_t* tiles = table + group * blocks * kTileBytes<F>;
    for (int64_t first = int64_t{blockIdx.y} * kTiledLookupThreads; first < blocks;
         first += stride) {
      const int64_t own = first + threadIdx.x;
      if (own < blocks && id >= 0) {
        F::Unpack(tiles + own * kTileBytes<F>, static_cast<int>(id % kTileRows),
                  taken + threadIdx.x * F::kBytes);
      }
      __syncthreads();
      const int64_t weights = min(blocks - first, int64_t{kTiledLookupThreads}) * F::kWeights;
      constexpr int kN = kIsBlockFormat<F> ? kVectorLanes<float> : 1;
      for (int64_t k = threadIdx.x * kN; k < weights; k += kTiledLookupThreads * kN) {
        float w[kN] = {};
        if (id >= 0) DecodeWeights<F>(taken, k, w);
        StoreFloats(out + t * cols + first * F::kWeights + k, w, false);
      }
      __syncthreads();
    }
  }
}

/// Rows of a tiled table of floats in its own dtype.
template <typename Value>
__global__ void __launch_bounds__(kLookupThreads)
    CopyTiledRowsKernel(Value* out, const Value* table, Ids ids, int64_t cols) {
  const int64_t stride = int64_t{gridDim.y} * kLookupThreads;
  for (int64_t t = blockIdx.x; t < ids.count; t += gridDim.x) {
    const int64_t id = ids[t], first = max(id, int64_t{0}) / kTileRows * kTileRows;
    for (int64_t k = int64_t{blockIdx.y} * kLookupThreads + threadIdx.x; k < cols; k += stride) {
      out[t * cols + k] = id < 0 ? Value{} : table[first * cols + k * kTileRows + id % kTileRows];
    }
  }
}

struct Lookup {
  const CudaCall& call;
  TensorView out, table;
  Ids ids;
  int64_t cols;

  template <typename... Parameters, typename... Arguments>
  void Launch(void (*kernel)(Parameters...), int64_t row_things, int threads,
              const Arguments&... arguments) const {
    call.Launch(kernel, dim3(BlocksOf(ids.count, 1), LookupBlocksOfRow(row_things, threads)),
                threads, 0, arguments...);
  }

  template <typename Value>
  void Copy(const void* from) const {
    constexpr int64_t kValues = sizeof(uint4) / sizeof(Value);
    if (table.ndim() == 1) {
      return Launch(CopyTiledRowsKernel<Value>, cols, kLookupThreads, Data<Value>(out),
                    static_cast<const Value*>(from), ids, cols);
    }
    if (cols % kValues == 0 && IsVectorAligned(from) && IsVectorAligned(Data<void>(out))) {
      return Launch(CopyRowsKernel<uint4>, cols / kValues, kLookupThreads, Data<uint4>(out),
                    static_cast<const uint4*>(from), ids, cols / kValues);
    }
    Launch(CopyRowsKernel<Value>, cols, kLookupThreads, Data<Value>(out),
           static_cast<const Value*>(from), ids, cols);
  }

  template <typename F>
  void Run() const {
    const auto* from = Data<const uint8_t>(table);
    if constexpr (!kIsBlockFormat<F>) {
      using Bits = std::conditional_t<F::kBytes == 2, uint16_t, uint32_t>;
      const bool whole = reinterpret_cast<uintptr_t>(from) % sizeof(Bits) == 0;
      if (DtypeBytes(out.dtype()) == F::kBytes && whole) return Copy<Bits>(from);
    }
    float* to = Data<float>(out);
    if (table.ndim() == 1) {
      return Launch(LookUpTiledKernel<F>, cols / F::kWeights, kTiledLookupThreads, to, from, ids,
                    cols);
    }
    constexpr int kN = kVectorLanes<float>;
    Launch(LookUpKernel<F>, (cols + kN - 1) / kN, kLookupThreads, to, from, ids, cols,
           cols % kN == 0 && IsVectorAligned(to));
  }
};

/// The slot `my_llm_ffi.embedding_lookup.cuda`.
void EmbeddingLookupCuda(TensorView out, TensorView table, TensorView ids, int64_t format_number,
                         int64_t cols) {
  const CudaCall call("embedding_lookup", {{"table", table}, {"ids", ids}, {"out", out}});
  DispatchFormat(static_cast<Format>(format_number), [&]<typename F>() {
    const int64_t rows = table.numel() / (cols / F::kWeights * F::kBytes);
    Lookup{call, out, table, {Data<void>(ids), ids.dtype() == kI64, ids.size(0), rows}, cols}
        .template Run<F>();
  });
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.embedding_lookup.cuda", EmbeddingLookupCuda);
}

}  // namespace
}  // namespace mlf
