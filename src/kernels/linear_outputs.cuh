// The sums of a warp's tile of linear, and how they become outputs: by way of shared memory, so
// that neighbouring threads write whole rows, 16 bytes each. Counterpart: linear_tiles.cu.
#pragma once
#include "kernels/linear_blocks.cuh"

namespace mlf::cuda_linear {

inline constexpr int kMmaM = 16, kMmaN = 8, kMmaK = 16;
inline constexpr int kTilesM = kWarpTokens / kMmaM, kTilesN = kWarpOutputs / kMmaN;

/// Of a thread, as tensor cores have them (cuda_mma.cuh).
using WarpSums = float[kTilesM][kTilesN][4];

// Of 16 tokens at a time; the distance of two rows puts what a half warp writes in different banks.
inline constexpr int kStagedStride = kWarpOutputs + 8, kStagedFloats = kMmaM * kStagedStride;

/// Eight outputs side by side, of which `left` are in the row.
template <typename T>
__device__ inline void StoreEight(T* to, const float (&v)[8], int64_t left, bool aligned) {
  constexpr int kN = kVectorLanes<T>;
#pragma unroll
  for (int i = 0; i < 8; i += kN) {
    if (aligned) {  // the row is then a multiple of kN
      float part[kN];
#pragma unroll
      for (int j = 0; j < kN; ++j) part[j] = v[i + j];
      if (i < left) StoreFloats(to + i, part, true);
      continue;
    }
#pragma unroll
    for (int j = i; j < i + kN; ++j) {
      if (j < left) to[j] = FromFloat<T>(v[j]);
    }
  }
}

struct Outputs {
  Floats out, bias;
  int64_t tokens, rows;

  __device__ __forceinline__ void StoreAt(int64_t token, int64_t output,
                                          const float (&v)[8]) const {
    const int64_t at = token * rows + output, left = rows - output;
    if (out.type == FloatType::kF32) {
      StoreEight(reinterpret_cast<float*>(out.data) + at, v, left, out.aligned);
    } else if (out.type == FloatType::kF16) {
      StoreEight(reinterpret_cast<F16*>(out.data) + at, v, left, out.aligned);
    } else {
      StoreEight(reinterpret_cast<BF16*>(out.data) + at, v, left, out.aligned);
    }
  }

  /// What a warp has, from `token` and `output` on; `staged` holds kStagedFloats of its own.
  __device__ __forceinline__ void Store(const WarpSums& sums, float* staged, int64_t token,
                                        int64_t output, int lane) const {
    const int column = lane % 8 * 8;
    output += column;
    float added[8] = {};
    if (bias.data != nullptr) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (output + j < rows) added[j] = LoadFloat(bias, output + j);
      }
    }
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
      __syncwarp();  // the tokens before are read
#pragma unroll
      for (int i = 0; i < 2 * kTilesN; ++i) {
        const int row = lane / 4 + i % 2 * 8, at = i / 2 * kMmaN + lane % 4 * 2;
        const float* c = sums[m][i / 2] + i % 2 * 2;
        *reinterpret_cast<CudaVector<float, 2>*>(staged + row * kStagedStride +
                                                 at) = {{c[0], c[1]}};
      }
      __syncwarp();
#pragma unroll 1
      for (int row = lane / 8; row < kMmaM && token + m * kMmaM + row < tokens; row += 4) {
        const auto* four =
            reinterpret_cast<const CudaVector<float, 4>*>(staged + row * kStagedStride + column);
        const CudaVector<float, 4> low = LoadVector(four), high = LoadVector(four + 1);
        float v[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] = (j < 4 ? low : high).lane[j % 4] + added[j];
        if (output < rows) StoreAt(token + m * kMmaM + row, output, v);
      }
    }
  }
};

}  // namespace mlf::cuda_linear
