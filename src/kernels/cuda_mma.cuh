// What C++ does not say: tensor cores, matrix loads and asynchronous copies of a warp (PTX, from
// sm_80 on). Counterpart: tests/native/cuda_emulator.h, which emulates each.
#pragma once
#include <cstdint>

#include "kernels/cuda_launch.cuh"

namespace mlf {

// c += a * b of one warp: a is [16, 16], b is [16, 8], c is [16, 8]. With g = lane / 4 and
// t = lane % 4, and two 16-bit elements in each word, the first in its lower half, a lane holds
//   a[0] = A[g][2t, 2t + 1]   a[1] = A[g + 8][2t, 2t + 1]   a[2], a[3] the same at columns + 8
//   b[0] = B[2t, 2t + 1][g]   b[1] = B[2t + 8, 2t + 9][g]
//   c[0], c[1] = C[g][2t, 2t + 1]   c[2], c[3] = C[g + 8][2t, 2t + 1]
// (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type").

__device__ inline void MmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulated::Mma<BF16>(c, a, b);
#endif
}

__device__ inline void MmaF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulated::Mma<F16>(c, a, b);
#endif
}

/// Loads four [8, 8] matrices of 16-bit elements. Lane 8 * j + i gives the address of row i of
/// matrix j: 16 bytes, aligned to 16. Word r[j] of a lane holds row lane / 4, columns
/// 2 * (lane % 4) and the next.
__device__ inline void LoadMatrix4(uint32_t (&r)[4], const void* shared) {
#ifdef __CUDACC__
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
#else
  emulated::LoadMatrix4(r, shared, /*transposed=*/false);
#endif
}

/// The same of the transposed matrices: r[j] holds rows 2 * (lane % 4) and the next, column
/// lane / 4.
__device__ inline void LoadMatrix4Transposed(uint32_t (&r)[4], const void* shared) {
#ifdef __CUDACC__
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
#else
  emulated::LoadMatrix4(r, shared, /*transposed=*/true);
#endif
}

/// Begins a copy of 16 bytes from global to shared memory, both aligned to 16; zeros in place of
/// what is not valid, which is not read. The bytes are there for this thread after CopyAsyncWait,
/// for the others after a barrier behind it.
__device__ inline void CopyAsync16(void* shared, const void* global, bool valid) {
#ifdef __CUDACC__
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(to), "l"(__cvta_generic_to_global(global)), "r"(bytes)
               : "memory");
#else
  emulated::CopyAsync16(shared, global, valid);
#endif
}

/// Ends a group of copies.
__device__ inline void CopyAsyncCommit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulated::CopyAsyncCommit();
#endif
}

/// Waits until at most the kGroups youngest groups of this thread are under way.
template <int kGroups>
__device__ inline void CopyAsyncWait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" : : "n"(kGroups) : "memory");
#else
  emulated::CopyAsyncWait(kGroups);
#endif
}

}  // namespace mlf
