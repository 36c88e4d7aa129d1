// Weights of any format (quant/format_list.h) in the registers of a CUDA thread, a few at a time.
// The formats' own functions read the blocks; here their integers become floats.
//
// Weight k of a row is in block k / F::kWeights; of block formats also
//
//   F::Four(block, b, j)       weights 4j … 4j + 3 of the b-th 32 of the block, a byte each, plus
//                              kOffset (so that no byte is negative)
//   F::SubScaleOf(block, s)    d and m of the s-th 32 / kSums: w = d * (byte - kOffset) - m
//
// for who wants integers. Blocks may lie anywhere; whole aligned words are read, so none beyond the
// word that ends a row.
#pragma once
#include "base/dtype.h"
#include "kernels/cuda_launch.cuh"
#include "kernels/cuda_vector.cuh"
#include "quant/format_list.h"

namespace mlf {

/// Where weight k of a row begins: its block for block formats, itself for others.
template <typename F>
__device__ inline const uint8_t* BlockAt(const uint8_t* row, int64_t k) {
  return row + k / F::kWeights * F::kBytes;
}

/// Byte i of four as a float, exactly: below a 1 that stands for 2^23, and less that.
template <int kOffset>
__device__ inline float ByteAsFloat(uint32_t four, int i) {
  return quant::FloatOfBits(0x4B000000u | (four >> (8 * i) & 255u)) - (8388608.f + kOffset);
}

/// Weights at … at + kN - 1 of a block, `at` a multiple of kN, which is 4, 8 or 16: they share a
/// scale. Bit for bit what F::Dequantize gives.
template <typename F, int kN>
__device__ inline void DecodeBlock(const uint8_t* block, int at, float (&w)[kN]) {
  static_assert(kIsBlockFormat<F> && (kN == 4 || kN == 8 || kN == 16));
  constexpr int kBlock = static_cast<int>(kQuantBlock);
  const int b = at / kBlock, first = at % kBlock / 4;
  const quant::SubScale scale = F::SubScaleOf(block, at / (kBlock / F::kSums));
#pragma unroll
  for (int j = 0; j < kN / 4; ++j) {
    const uint32_t four = F::Four(block, b, first + j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Not fused, which would round once less than ggml does.
      const float product = __fmul_rn(scale.d, ByteAsFloat<F::kOffset>(four, i));
      w[4 * j + i] = F::kHasMin ? __fadd_rn(product, -scale.m) : product;
    }
  }
}

/// kN values of a float format, in accesses of up to 16 bytes where they are aligned to these.
template <typename F, int kN>
__device__ inline void DecodeFloats(const uint8_t* values, float (&w)[kN]) {
  static_assert(!kIsBlockFormat<F>);
  using Value = typename F::Value;
  constexpr int kPart = kN < kVectorLanes<Value> ? kN : kVectorLanes<Value>;
  using Vector = CudaVector<Value, kPart>;
  const bool aligned = reinterpret_cast<uintptr_t>(values) % sizeof(Vector) == 0;
#pragma unroll
  for (int first = 0; first < kN; first += kPart, values += sizeof(Vector)) {
    Vector v;
    if (aligned) {
      v = LoadConstVector(reinterpret_cast<const Vector*>(values));
    } else {
      memcpy(&v, values, sizeof v);
    }
#pragma unroll
    for (int i = 0; i < kPart; ++i) w[first + i] = static_cast<float>(v.lane[i]);
  }
}

/// Weights k … k + kN - 1 of a row of any format, k a multiple of kN.
template <typename F, int kN>
__device__ inline void DecodeWeights(const uint8_t* row, int64_t k, float (&w)[kN]) {
  if constexpr (kIsBlockFormat<F>) {
    DecodeBlock<F>(BlockAt<F>(row, k), static_cast<int>(k % F::kWeights), w);
  } else {
    DecodeFloats<F>(BlockAt<F>(row, k), w);
  }
}

/// Rounds to T; in one access where `aligned` says that `out` is aligned to all kN.
template <typename T, int kN>
__device__ inline void StoreFloats(T* out, const float (&w)[kN], bool aligned) {
  CudaVector<T, kN> v;
#pragma unroll
  for (int i = 0; i < kN; ++i) v.lane[i] = FromFloat<T>(w[i]);
  if (aligned) {
    StoreVector(reinterpret_cast<CudaVector<T, kN>*>(out), v);
  } else {
#pragma unroll
    for (int i = 0; i < kN; ++i) out[i] = v.lane[i];
  }
}

}  // namespace mlf
