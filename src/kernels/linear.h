// Matrix multiplication with weights in any format. Counterparts: linear.cc, pack_weight.cc,
// quantize.cc, embedding_lookup.cc.
#pragma once
#include "base/kernel.h"
#include "quant/formats.h"

namespace mlf {

// Weights come in two layouts. The file's: [rows, row_bytes]. Tiled: groups of kTileRows = 16 rows
// (the last one padded with zero rows), each group a run of tiles along k; lanes of a tile are
// rows, so that every output element is one chain over k in one fixed order, whatever the number of
// activation rows (drawn in quant/tile.h).

/// Bytes of the tiled layout of a [rows, cols] weight.
int64_t PackedBytes(Format format, int64_t rows, int64_t cols);

/// How matmuls with this format take activations: as float32 rows (0, float formats), or rounded by
/// quantize_activations to one plane of 8 bits or, for Q4_1 and Q5_1, to two planes that make 16.
/// There the whole row's mean passes through sum(x): with 8 bits, 30 layers of SmolLM2 in Q4_1 end
/// 16% from the exact logits, with 16 below 3%. K formats with minima do with 8: 22 layers of
/// TinyLlama in IQ2_XXS, Q2_K, Q4_K and Q5_K end within 4%.
int ActivationPlanes(Format format);
inline constexpr int kMaxActivationPlanes = 2;

/// Bytes of one row of `cols` activations (a multiple of 32) as quantize_activations writes it.
int64_t QuantizedRowBytes(int64_t cols, int64_t planes);

/// packed[PackedBytes] = weight[rows, row_bytes] tiled; uint8 both.
using PackWeightFn = void(TensorView packed, TensorView weight, int64_t format, int64_t cols);
inline Kernel<PackWeightFn> pack_weight_kernel{"pack_weight"};

/// q[tokens, QuantizedRowBytes(cols, planes)] uint8 = x[tokens, cols] float32, rounded to nearest
/// even in blocks of 32 with a scale each (the float16 of Q8_0 with one plane).
using QuantizeActivationsFn = void(TensorView q, TensorView x, int64_t planes);
inline Kernel<QuantizeActivationsFn> quantize_activations_kernel{"quantize_activations"};

/// out[t, n] = sum_k x[t, k] * W[n, k] (+ bias[n]); out [tokens, rows] float32, float16 or
/// bfloat16; x [tokens, cols], one of these too, or, where ActivationPlanes, uint8 [tokens,
/// QuantizedRowBytes] (which floats are brought to on the way); weight uint8, tiled (1-D) or in the
/// file's layout (2-D [rows, row_bytes]; same result bit for bit, slower); bias [rows] of out's
/// dtype or a view whose data is null.
using LinearFn = void(TensorView out, TensorView x, TensorView weight, TensorView bias,
                      int64_t format, int64_t cols);
inline Kernel<LinearFn> linear_kernel{"linear"};

/// out[t, :] = row ids[t] (int32 or int64, in range: checked by the caller) of a [rows, cols] table
/// in either layout; out float32 or, for a table of 16-bit floats, of its dtype.
using EmbeddingLookupFn = void(TensorView out, TensorView table, TensorView ids, int64_t format,
                               int64_t cols);
inline Kernel<EmbeddingLookupFn> embedding_lookup_kernel{"embedding_lookup"};

}  // namespace mlf
