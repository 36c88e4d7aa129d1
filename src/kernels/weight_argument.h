// A weight as ops take it: a float tensor, or bytes of a format, tiled or not. Counterpart:
// weight_argument.cc.
#pragma once
#include "base/op.h"
#include "quant/formats.h"

namespace mlf {

/// What kernels take instead: bytes of one format.
struct WeightArgument {
  Format format;
  int64_t rows, cols;
  ArrayView bytes;  // uint8, [rows, row_bytes], or 1-D where it is tiled
};

/// The arguments of an op that say what a weight is, checked by the op's signature so far.
struct WeightParameters {
  const char* name;  // of `tensor` in messages
  TensorView tensor;
  ffi::Optional<ffi::String> format = std::nullopt;
  bool packed = false;
  ffi::Optional<int64_t> rows = std::nullopt;
};

/// Throws ValueError where they do not agree.
WeightArgument ReadWeight(const Op& op, const WeightParameters& p);

/// The weight format that float tensors of this dtype are in.
Format FormatOfDtype(DLDataType dtype);

}  // namespace mlf
