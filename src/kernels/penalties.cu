// Penalties for tokens that were seen on CUDA. Counterparts: penalties.h, penalties.cc (the op,
// which finds this kernel by its registered name).
#include <algorithm>

#include "kernels/cuda_row.cuh"
#include "kernels/cuda_scratch.cuh"
#include "kernels/grid_launch.h"
#include "kernels/penalties.h"
#include "kernels/penalties_launch.h"

namespace mlf {
namespace {

constexpr int kThreads = 256;

/// A place of an open hash table (Knuth, TAOCP 3, 6.4, algorithm L). Which token has which slot
/// depends on who came first, but not what it counts.
struct Slot {
  int token, count;
};

__device__ void Clear(Slot* slot) { *slot = {-1, 0}; }

/// `mask`: of the number of slots, a power of two.
__device__ void Count(Slot* slots, int64_t mask, int token) {
  // Knuth's multiplicative hashing; the lowest bits of the product are those of the token's alone.
  int64_t at = (static_cast<uint32_t>(token) * 2654435769u >> 4) & mask;
  for (;; at = (at + 1) & mask) {
    const int there = atomicCAS(&slots[at].token, -1, token);
    if (there == -1 || there == token) break;
  }
  atomicAdd(&slots[at].count, 1);
}

template <typename T>
struct PenaltyTask {
  T* logits;            // [rows, vocab]
  const int32_t* seen;  // [rows, n]
  int64_t rows, vocab, n, slots;
  CudaRowParameter<float> repetition, frequency, presence;

  /// What was seen at i of a row; -1 where that is no token.
  __device__ int Seen(int64_t row, int64_t i) const {
    const int token = seen[row * n + i];
    return token < vocab ? token : -1;
  }
  __device__ void Penalize(int64_t row, const Slot& slot) const {
    if (slot.token < 0) return;
    T& logit = logits[row * vocab + slot.token];
    logit = FromFloat<T>(static_cast<float>(Penalized(
        static_cast<float>(logit), slot.count, repetition[row], frequency[row], presence[row])));
  }
};

/// A block counts the tokens of a row in shared memory.
template <typename T>
__global__ void __launch_bounds__(kThreads) PenalizeRowsKernel(PenaltyTask<T> task) {
  Slot* slots = DynamicShared<Slot>();
  for (int64_t row = blockIdx.x; row < task.rows; row += gridDim.x) {
    for (int64_t i = threadIdx.x; i < task.slots; i += kThreads) Clear(slots + i);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < task.n; i += kThreads) {
      if (const int token = task.Seen(row, i); token >= 0) Count(slots, task.slots - 1, token);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < task.slots; i += kThreads) task.Penalize(row, slots[i]);
    __syncthreads();
  }
}

// ---- long rows: the same three steps over slots [rows, task.slots] in memory --------------------

/// fn(i) for i < count, over all threads of the launch.
template <typename Fn>
__device__ void ForAll(int64_t count, Fn fn) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    fn(i);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) ClearKernel(PenaltyTask<T> task, Slot* slots) {
  ForAll(task.rows * task.slots, [=](int64_t i) { Clear(slots + i); });
}

template <typename T>
__global__ void __launch_bounds__(kThreads) CountKernel(PenaltyTask<T> task, Slot* slots) {
  ForAll(task.rows * task.n, [=](int64_t i) {
    const int64_t row = i / task.n;
    const int token = task.Seen(row, i % task.n);
    if (token >= 0) Count(slots + row * task.slots, task.slots - 1, token);
  });
}

template <typename T>
__global__ void __launch_bounds__(kThreads) PenalizeKernel(PenaltyTask<T> task, Slot* slots) {
  ForAll(task.rows * task.slots, [=](int64_t i) { task.Penalize(i / task.slots, slots[i]); });
}

template <typename T>
void Run(const CudaCall& call, const PenaltyTask<T>& task) {
  if (task.n <= kSharedSeen) {
    call.Launch(PenalizeRowsKernel<T>, BlocksOf(task.rows), kThreads, task.slots * sizeof(Slot),
                task);
    return;
  }
  ScratchPlan plan;
  const int64_t at = plan.Add<Slot>(task.rows * task.slots);
  const CudaScratch scratch(call, plan);
  const auto launch = [&](auto kernel, int64_t count) {
    call.Launch(kernel, BlocksOf(count, kThreads), kThreads, 0, task, scratch.At<Slot>(at));
  };
  launch(ClearKernel<T>, task.rows * task.slots);
  launch(CountKernel<T>, task.rows * task.n);
  launch(PenalizeKernel<T>, task.rows * task.slots);
}

/// The slot `my_llm_ffi.apply_penalties.cuda`.
void ApplyPenaltiesCuda(TensorView logits, TensorView tokens, ffi::Optional<TensorView> repetition,
                        ffi::Optional<TensorView> frequency, ffi::Optional<TensorView> presence) {
  const CudaCall call("apply_penalties", {{"logits", logits},
                                          {"tokens", tokens},
                                          {"repetition", GivenOr(repetition, logits)},
                                          {"frequency", GivenOr(frequency, logits)},
                                          {"presence", GivenOr(presence, logits)}});
  DispatchFloat(logits.dtype(), [&]<typename T>() {
    Run<T>(call,
           {Data<T>(logits), Data<const int32_t>(tokens), logits.size(0), logits.size(1),
            tokens.size(1), PenaltySlots(tokens.size(1)), CudaRowParameter<float>(repetition, 1),
            CudaRowParameter<float>(frequency, 0), CudaRowParameter<float>(presence, 0)});
  });
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterCudaKernel("my_llm_ffi.apply_penalties.cuda", ApplyPenaltiesCuda);
}

}  // namespace
}  // namespace mlf
