// Token bitmasks over rows of logits on CUDA. Counterparts: logit_mask.h, logit_mask.cc (the ops,
// which find these kernels by their registered names), logit_mask_rows.cuh.
#include "kernels/cuda_scratch.cuh"
#include "kernels/logit_mask_rows.cuh"

namespace mlf {
namespace {

template <typename T>
struct MaskTask {
  T* x;  // [rows, n]
  int64_t rows, n, chunks;
  CudaRowMasks masks;
  CudaRowParameter<float> temperature, ln_min_p;
  float* mass;          // [rows]
  int32_t* status;      // [rows]
  MaskFindings* found;  // [rows, chunks]
  unsigned* looked;     // [rows]: chunks that were looked at
  unsigned long long* ticket;

  __device__ bool IsBad(int64_t row) const {
    const float t = temperature[row], p = ln_min_p[row];
    return !(t >= 0 && t <= 3.40282347e38f) || !(p <= 0) || masks.IsBad(row);
  }
  /// log2(e) / temperature of the mass.
  __device__ float MassScale(int64_t row) const {
    const float t = temperature[row];
    return t < kGreedyBelow ? kLog2E : kLog2E / t;
  }
  int64_t items() const { return rows * chunks; }
};

template <typename T>
__device__ void Look(const MaskTask<T>& task, int64_t item) {
  const int64_t row = item / task.chunks, begin = item % task.chunks * MaskChunk<T>::kElements;
  if (task.IsBad(row)) return;
  const MaskFindings found =
      FindIn(task.x + row * task.n, task.masks[row], begin, task.n, task.MassScale(row));
  if (threadIdx.x == 0) task.found[item] = found;
}

/// `waits`: until all of the row has been looked at.
template <typename T>
__device__ void Write(const MaskTask<T>& task, int64_t item, bool waits) {
  const int64_t row = item / task.chunks, at = item % task.chunks,
                begin = at * MaskChunk<T>::kElements;
  const MaskFindings* found = task.found + row * task.chunks;
  T* x = task.x + row * task.n + begin;
  if (waits) {
    if (threadIdx.x == 0) {
      while (atomicAdd(task.looked + row, 0u) < task.chunks) {
      }
      __threadfence();
    }
    __syncthreads();
  }
  MaskRow of_row{0, 0, kMaskBadParameter};
  if (!task.IsBad(row)) of_row = CombineMaxima(found, task.chunks, task.n);
  MaskChunk<T> chunk;
  chunk.Load(x, task.n - begin, FromFloat<T>(-INFINITY));
  float mass = 0;
  if (of_row.status == kMaskOk) {
    const uint32_t* mask = task.masks[row];
    const float temperature = task.temperature[row];
    if (temperature < kGreedyBelow) {
      const bool first = ChunkOf(of_row.allowed, found, task.chunks) == at;
      KeepFirst<T>(chunk, mask, begin, task.n, of_row.allowed, first);
    } else {
      ScaleIn<T>(chunk, mask, begin, task.n,
                 MaskScale::Of<T>(of_row, temperature, task.ln_min_p[row]));
    }
    mass = 1;
    if (mask != nullptr && at == 0) {
      mass = CombineMasses(found, task.chunks, of_row.any, task.MassScale(row));
    }
  } else {
    FillIn<T>(chunk);
  }
  chunk.Store(x, task.n - begin);
  if (at == 0 && threadIdx.x == 0) {
    task.mass[row] = mass;
    task.status[row] = of_row.status;
  }
}

template <typename T>
__global__ void __launch_bounds__(kMaskThreads, kMaskBlocksPerMultiprocessor)
    LookKernel(MaskTask<T> task, int64_t items) {
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) Look<T>(task, item);
}

template <typename T>
__global__ void __launch_bounds__(kMaskThreads, kMaskBlocksPerMultiprocessor)
    WriteKernel(MaskTask<T> task, int64_t items) {
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) Write<T>(task, item, false);
}

/// A kernel that may run with nothing of an earlier one left.
template <typename T>
__global__ void ResetKernel(MaskTask<T> task) {
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (int64_t r = first; r < task.rows; r += int64_t{gridDim.x} * blockDim.x) task.looked[r] = 0;
  if (first == 0) *task.ticket = 0;
}

/// Looks and writes in the order of MaskStepOf, so that each chunk comes into the second-level
/// cache once. A ticket is drawn while the one before it is worked on, which hides the time it
/// takes.
template <typename T>
__global__ void __launch_bounds__(kMaskThreads, kMaskBlocksPerMultiprocessor)
    InterleavedKernel(MaskTask<T> task, int64_t items, int64_t lag) {
  __shared__ int64_t drawn[2];
  const auto draw = [&](int i) {
    if (threadIdx.x == 0) drawn[i] = static_cast<int64_t>(atomicAdd(task.ticket, 1ull));
  };
  draw(0);
  for (int i = 0;; i = 1 - i) {
    __syncthreads();  // the ticket is there, and the one before has been read
    const int64_t ticket = drawn[i];
    if (ticket >= 2 * items) return;
    draw(1 - i);
    const MaskStep step = MaskStepOf(ticket, items, lag);
    if (step.writes) {
      Write<T>(task, step.item, true);
      continue;
    }
    Look<T>(task, step.item);
    if (threadIdx.x == 0) {  // who wrote what was found
      __threadfence();
      atomicAdd(task.looked + step.item / task.chunks, 1u);
    }
  }
}

template <typename T>
void Run(const CudaCall& call, MaskTask<T> task) {
  task.chunks = MaskChunks(task.n, MaskChunk<T>::kElements);
  const int64_t items = task.items();
  ScratchPlan plan;
  const int64_t found = plan.Add<MaskFindings>(items), looked = plan.Add<unsigned>(task.rows),
                ticket = plan.Add<unsigned long long>(1);
  const CudaScratch scratch(call, plan);
  task.found = scratch.At<MaskFindings>(found);
  task.looked = scratch.At<unsigned>(looked);
  task.ticket = scratch.At<unsigned long long>(ticket);
  if (task.rows * task.n * static_cast<int64_t>(sizeof(T)) <= kMaskInterleavedBytes) {
    const unsigned grid = BlocksOf(items);
    call.Launch(LookKernel<T>, grid, kMaskThreads, 0, task, items);
    call.Launch(WriteKernel<T>, grid, kMaskThreads, 0, task, items);
    return;
  }
  const unsigned blocks = MaskInterleavedBlocks(items, call.multiprocessors());
  call.Launch(ResetKernel<T>, MaskResetBlocks(task.rows), kMaskThreads, 0, task);
  call.Launch(InterleavedKernel<T>, blocks, kMaskThreads, 0, task, items,
              MaskLag(items, task.chunks, blocks));
}

CudaRowMasks MasksOf(const ffi::Optional<TensorView>& bitmask,
                     const ffi::Optional<TensorView>& mask_rows) {
  CudaRowMasks masks{nullptr, 0, 0, nullptr};
  if (bitmask.has_value()) {
    masks.bits = Data<const uint32_t>(*bitmask);
    masks.masks = (*bitmask).size(0);
    masks.words = (*bitmask).size(1);
  }
  if (mask_rows.has_value()) masks.rows = Data<const int32_t>(*mask_rows);
  return masks;
}

/// The slot `my_llm_ffi.mask_logits.cuda`.
void MaskLogitsCuda(TensorView mass, TensorView status, TensorView logits,
                    ffi::Optional<TensorView> bitmask, ffi::Optional<TensorView> mask_rows,
                    ffi::Optional<TensorView> temperature, ffi::Optional<TensorView> ln_min_p) {
  const CudaCall call("mask_logits", {{"logits", logits},
                                      {"bitmask", GivenOr(bitmask, logits)},
                                      {"mask_rows", GivenOr(mask_rows, logits)},
                                      {"temperature", GivenOr(temperature, logits)},
                                      {"ln_min_p", GivenOr(ln_min_p, logits)},
                                      {"mass", mass},
                                      {"status", status}});
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    Run<T>(call,
           {Data<T>(logits), logits.size(0), logits.size(1), 0, MasksOf(bitmask, mask_rows),
            CudaRowParameter<float>(temperature, 1), CudaRowParameter<float>(ln_min_p, -INFINITY),
            Data<float>(mass), Data<int32_t>(status), nullptr, nullptr, nullptr});
  });
}

// ---- apply_token_bitmask ------------------------------------------------------------------------

/// Reads and writes the vectors alone that hold a forbidden token.
template <typename T>
__global__ void __launch_bounds__(kMaskThreads)
    ApplyBitmaskKernel(T* logits, int64_t items, int64_t n, int64_t chunks, CudaRowMasks masks) {
  using Chunk = MaskChunk<T>;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t row = item / chunks, begin = item % chunks * Chunk::kElements;
    const bool bad = masks.IsBad(row);
    const uint32_t* mask = bad ? nullptr : masks[row];
    if (!bad && mask == nullptr) continue;
    T* x = logits + row * n + begin;
    const bool aligned = StartsVector(x);
#pragma unroll
    for (int v = 0; v < kMaskVectors; ++v) {
      constexpr uint32_t kAll = (1u << Chunk::kLanes) - 1;
      const int at = Chunk::Begin(v);
      if (begin + at >= n) break;
      const uint32_t bits = bad ? 0 : BitsAt<Chunk::kLanes>(mask, begin + at, n) & kAll;
      if (bits == kAll) continue;
      if (aligned && begin + at + Chunk::kLanes <= n) {
        auto* vector = reinterpret_cast<typename Chunk::Vector*>(x + at);
        typename Chunk::Vector kept = LoadVector(vector);
#pragma unroll
        for (int i = 0; i < Chunk::kLanes; ++i) {
          if ((bits >> i & 1) == 0) kept.lane[i] = FromFloat<T>(-INFINITY);
        }
        StoreVector(vector, kept);
        continue;
      }
      for (int i = 0; i < Chunk::kLanes && begin + at + i < n; ++i) {
        if ((bits >> i & 1) == 0) x[at + i] = FromFloat<T>(-INFINITY);
      }
    }
  }
}

/// The slot `my_llm_ffi.apply_token_bitmask.cuda`.
void ApplyTokenBitmaskCuda(TensorView logits, TensorView bitmask,
                           ffi::Optional<TensorView> mask_rows) {
  const CudaCall call(
      "apply_token_bitmask",
      {{"logits", logits}, {"bitmask", bitmask}, {"mask_rows", GivenOr(mask_rows, logits)}});
  const CudaRowMasks masks = MasksOf(bitmask, mask_rows);
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    const int64_t n = logits.size(1), chunks = MaskChunks(n, MaskChunk<T>::kElements),
                  items = logits.size(0) * chunks;
    call.Launch(ApplyBitmaskKernel<T>, BlocksOf(items), kMaskThreads, 0, Data<T>(logits), items, n,
                chunks, masks);
  });
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.mask_logits.cuda", MaskLogitsCuda);
  RegisterCudaKernel("my_llm_ffi.apply_token_bitmask.cuda", ApplyTokenBitmaskCuda);
}

}  // namespace
}  // namespace mlf
