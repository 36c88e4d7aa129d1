// What the CUDA kernels of linear share on the host: one product, and who computes it.
// Counterparts: linear.cu (chooses), linear_few.cu, linear_tiles.cu, linear_floats.cu,
// linear_cublas.cu.
#pragma once
#include "kernels/cuda_launch.cuh"
#include "quant/format_list.h"

namespace mlf::cuda_linear {

/// A row-major array of float32, float16 or bfloat16.
struct FloatArray {
  uint8_t* data;
  DLDataType dtype;
};

/// out[tokens, rows] = x[tokens, cols] * weight[rows, cols]^T + bias[rows]; none of the sizes is 0.
struct Product {
  Format format;
  FloatArray out, x;
  const uint8_t* weight;
  int64_t weight_bytes;
  FloatArray bias;  // data may be null; of out's dtype
  int64_t tokens, rows, cols;
};

/// Block formats: the weights are read once for every few tokens.
void FewTokens(const CudaCall& call, const Product& p);

/// Block formats: tiles on tensor cores, activations and weights rounded to bfloat16.
void TokenTiles(const CudaCall& call, const Product& p);

/// Float weights of any dtypes, in float32 arithmetic; the weights are read once for every few
/// tokens.
void FloatRows(const CudaCall& call, const Product& p);

/// Whether cuBLASLt multiplies these dtypes.
bool CublasTakes(const Product& p);

/// Float weights by cuBLASLt; NotImplementedError where it is not to be found.
void CublasProduct(const CudaCall& call, const Product& p);

}  // namespace mlf::cuda_linear
