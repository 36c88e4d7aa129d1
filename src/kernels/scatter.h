// Rows put where indices say. Counterpart: scatter.cc.
#pragma once
#include "base/kernel.h"

namespace mlf {

/// out[rows[i], :] = scale * x[i, :], plus what was there where `add`. out [n, cols] and x [m,
/// cols] float32; rows int32 [m], in range, no two alike.
using ScatterRowsFn = void(TensorView out, TensorView x, TensorView rows, double scale, bool add);
inline Kernel<ScatterRowsFn> scatter_rows_kernel{"scatter_rows"};

}  // namespace mlf
