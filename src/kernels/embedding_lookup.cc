// Op my_llm_ffi.embedding_lookup: rows of a table in any format. Counterparts: linear.h (kernel),
// dequantize_simd.cc.
#include <algorithm>
#include <cstring>
#include <sstream>

#include "base/op.h"
#include "base/thread_pool.h"
#include "kernels/dequantize_simd.h"
#include "kernels/linear.h"
#include "kernels/pack_weight.h"
#include "kernels/weight_argument.h"

namespace mlf {
namespace {

constexpr int64_t kBytesAtOnce = 64 << 10;  // of output that a thread takes
constexpr int64_t kTilesAtOnce = 1024;      // unpacked on the stack

/// Row `id` of a tiled table in the file's layout, a piece at a time: fn(bytes, first column,
/// columns).
template <typename F, typename Fn>
void ForPiecesOfTiled(const uint8_t* table, int64_t id, int64_t cols, Fn fn) {
  constexpr int64_t kBlocks = std::max<int64_t>(1, kTilesAtOnce / F::kWeights);
  const int64_t blocks = cols / F::kWeights;
  const int lane = static_cast<int>(id % kTileRows);
  const uint8_t* tile = table + id / kTileRows * blocks * kTileBytes<F>;
  for (int64_t b = 0; b < blocks; b += kBlocks) {
    uint8_t piece[kBlocks * F::kBytes];
    const int64_t n = std::min(kBlocks, blocks - b);
    for (int64_t i = 0; i < n; ++i, tile += kTileBytes<F>) {
      F::Unpack(tile, lane, piece + i * F::kBytes);
    }
    fn(piece, b * F::kWeights, n * F::kWeights);
  }
}

/// A table's row into an output of its own dtype.
template <typename F>
void CopyRow(uint8_t* out, const uint8_t* table, bool tiled, int64_t id, int64_t cols) {
  if (!tiled) {
    std::memcpy(out, table + id * cols * F::kBytes, cols * F::kBytes);
    return;
  }
  ForPiecesOfTiled<F>(table, id, cols, [&](const uint8_t* bytes, int64_t k, int64_t n) {
    std::memcpy(out + k * F::kBytes, bytes, n * F::kBytes);
  });
}

template <typename F>
void DequantizeRowOf(float* out, const uint8_t* table, bool tiled, int64_t id, int64_t cols) {
  constexpr Format kFormat = static_cast<Format>(F::kGgufType);
  if (!tiled) {
    dequantize_row_f32(out, table + id * (cols / F::kWeights * F::kBytes), cols, kFormat);
    return;
  }
  ForPiecesOfTiled<F>(table, id, cols, [&](const uint8_t* bytes, int64_t k, int64_t n) {
    dequantize_row_f32(out + k, bytes, n, kFormat);
  });
}

template <typename F, typename Id>
void LookUp(const TensorView& out, const TensorView& table, const Id* ids, int64_t cols,
            int64_t begin, int64_t end) {
  const uint8_t* rows = Data<const uint8_t>(table);
  const bool tiled = table.ndim() == 1;
  const int64_t row_bytes = cols * DtypeBytes(out.dtype());
  uint8_t* to = Data<uint8_t>(out) + begin * row_bytes;
  for (int64_t t = begin; t < end; ++t, to += row_bytes) {
    // A dtype of 4 bytes is float32, which is what all formats but the 16-bit ones come as.
    if (!kIsBlockFormat<F> && DtypeBytes(out.dtype()) == F::kBytes) {
      CopyRow<F>(to, rows, tiled, ids[t], cols);
    } else {
      DequantizeRowOf<F>(reinterpret_cast<float*>(to), rows, tiled, ids[t], cols);
    }
  }
}

void EmbeddingLookupCpu(TensorView out, TensorView table, TensorView ids, int64_t format_number,
                        int64_t cols) {
  if (cols == 0) return;
  const int64_t row_bytes = cols * DtypeBytes(out.dtype());
  ParallelFor(ids.size(0), kBytesAtOnce / row_bytes, [&](int64_t begin, int64_t end) {
    DispatchFormat(static_cast<Format>(format_number), [&]<typename F>() {
      if (ids.dtype() == kI32) {
        LookUp<F>(out, table, Data<const int32_t>(ids), cols, begin, end);
      } else {
        LookUp<F>(out, table, Data<const int64_t>(ids), cols, begin, end);
      }
    });
  });
}

[[maybe_unused]] const bool kFilled = embedding_lookup_kernel.SetCpu(EmbeddingLookupCpu);

const Op kEmbeddingLookup{
    "embedding_lookup",
    "(table: T['n row_bytes', 'f32 f16 bf16 u8'], ids: T['*batch', 'i32 i64'], *, "
    "format: " MLF_FORMAT_LITERAL
    " | None = None, packed: bool = False, rows: int | None = None) -> "
    "T['*batch row_bytes//block_bytes*block', 'like table or f32']",
    R"(Rows of a table: ``out[..., :] = table[ids[...], :]``.

A table of floats gives rows of its own dtype, or of float32 where ``out`` is that. A uint8 table
holds blocks of ``format`` and gives float32 rows, dequantized on the way.

table: Rows of floats or, as uint8, of whole blocks.
ids: Row of the table for each output row, 0 or greater. On the CPU each is checked before anything
    is read (IndexError); elsewhere they must be in range.
format: Name of the blocks' format, for a uint8 table.
packed: Whether ``table`` is what ``pack_weight`` gave.
rows: Rows of a packed table without its padding; ids end there.
)"};

std::string PlaceOf(const TensorView& t, int64_t flat) {
  std::string place;
  for (int i = t.ndim() - 1; i >= 0; --i) {
    place = std::to_string(flat % t.size(i)) + (place.empty() ? "" : ", ") + place;
    flat /= t.size(i);
  }
  return place;
}

template <typename Id>
void CheckIds(const TensorView& ids, int64_t rows) {
  const Id* id = Data<const Id>(ids);
  for (int64_t i = 0, n = ids.numel(); i < n; ++i) {
    if (id[i] >= 0 && id[i] < rows) continue;
    TVM_FFI_THROW(IndexError) << kEmbeddingLookup.name() << ": ids[" << PlaceOf(ids, i) << "] is "
                              << id[i] << ", expected 0 or greater and less than " << rows
                              << " (rows of table)";
  }
}

void EmbeddingLookup(TensorView table, TensorView ids, TensorView out,
                     ffi::Optional<ffi::String> format, bool packed, ffi::Optional<int64_t> rows) {
  const Op& op = kEmbeddingLookup;
  op.Check(table, ids, out);
  const WeightArgument w = ReadWeight(
      op, {.name = "table", .tensor = table, .format = format, .packed = packed, .rows = rows});
  if (out.dtype() == kU8)
    TVM_FFI_THROW(TypeError) << op.name() << ": out is uint8, expected float32";
  op.That(out.size(out.ndim() - 1) == w.cols, "out has rows of ", out.size(out.ndim() - 1),
          ", expected ", w.cols, " (from table)");
  const int64_t n = ids.numel();
  if (ids.device().device_type == kDLCPU) {
    ids.dtype() == kI32 ? CheckIds<int32_t>(ids, w.rows) : CheckIds<int64_t>(ids, w.rows);
  }
  if (n == 0 || w.cols == 0) return;
  embedding_lookup_kernel(table.device(),
                          ArrayView(Data<void>(out), out.dtype(), {n, w.cols}, out.device()),
                          w.bytes, ArrayView(Data<void>(ids), ids.dtype(), {n}, ids.device()),
                          static_cast<int64_t>(w.format), w.cols);
}

TVM_FFI_STATIC_INIT_BLOCK() { kEmbeddingLookup.Register(EmbeddingLookup); }

}  // namespace
}  // namespace mlf
