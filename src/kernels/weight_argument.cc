// A weight as ops take it. Counterpart: weight_argument.h.
#include "kernels/weight_argument.h"

#include "kernels/pack_weight.h"

namespace mlf {
namespace {

WeightArgument ReadFloats(const Op& op, const WeightParameters& p) {
  const TensorView& t = p.tensor;
  if (p.format.has_value() || p.packed) {
    op.Refuse(p.packed ? "packed" : "format", " is for a uint8 weight, got ", p.name, " of dtype ",
              DtypeName(t.dtype()));
  }
  const int64_t rows = t.size(0), cols = t.size(1);
  return {FormatOfDtype(t.dtype()), rows, cols,
          ArrayView(Data<void>(t), kU8, {rows, cols * DtypeBytes(t.dtype())}, t.device())};
}

const FormatInfo& ReadFormat(const Op& op, const WeightParameters& p) {
  if (!p.format.has_value())
    op.Refuse(p.name, " is uint8, expected format= one of ", FormatNames());
  const ffi::String name = *p.format;
  const FormatInfo* info = FindFormat(std::string_view(name.data(), name.size()));
  if (info == nullptr) op.Choice("format", name);  // throws, with all of them
  return *info;
}

WeightArgument ReadBytes(const Op& op, const WeightParameters& p) {
  const TensorView& t = p.tensor;
  const FormatInfo& info = ReadFormat(op, p);
  const int64_t rows = t.size(0), row_bytes = t.size(1);
  op.That(row_bytes % info.block_bytes == 0, p.name, " has rows of ", row_bytes,
          " bytes, expected a multiple of ", info.block_bytes, " (one block of ", info.name, ")");
  const int64_t cols = row_bytes / info.block_bytes * info.block;
  if (!p.packed) {
    return {info.format, rows, cols, ArrayView(Data<void>(t), kU8, {rows, row_bytes}, t.device())};
  }
  op.That(rows % kTileRows == 0, p.name, " has ", rows, " rows, expected a multiple of ", kTileRows,
          " where it is packed");
  return {info.format, rows, cols, ArrayView(Data<void>(t), kU8, {rows * row_bytes}, t.device())};
}

/// `rows` of a packed weight leaves the padding out; of any other it may only repeat the shape.
int64_t ReadRows(const Op& op, const WeightParameters& p, int64_t rows) {
  if (!p.rows.has_value()) return rows;
  const int64_t padding = p.packed && rows > 0 ? kTileRows - 1 : 0;
  if (*p.rows >= rows - padding && *p.rows <= rows) return *p.rows;
  op.Refuse("rows is ", *p.rows, ", expected ",
            padding > 0 ? std::to_string(rows - padding) + " to " : "", rows, " (from ", p.name,
            ")");
}

}  // namespace

Format FormatOfDtype(DLDataType dtype) {
  if (dtype == kF16) return Format::kF16;
  return dtype == kBF16 ? Format::kBF16 : Format::kF32;
}

WeightArgument ReadWeight(const Op& op, const WeightParameters& p) {
  WeightArgument weight = p.tensor.dtype() == kU8 ? ReadBytes(op, p) : ReadFloats(op, p);
  weight.rows = ReadRows(op, p, weight.rows);
  return weight;
}

}  // namespace mlf
