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

constexpr int64_t kBytesAtOnce = 256 << 10;  // of output that a thread takes
constexpr int64_t kPieceBytes = 4096;        // of a row that is read at once, while ...
constexpr int64_t kAheadBytes = 4096;        // ... that many later ones are on their way

/// Blocks of a piece.
template <typename F>
inline constexpr int64_t kPieceBlocks = std::max<int64_t>(1, kPieceBytes / F::kBytes);

/// Calls fn(bytes, first block, blocks) for the pieces of row `id` in the file's layout. Rows come
/// from anywhere, so that the hardware cannot guess what is needed: row `later` is fetched
/// meanwhile.
template <typename F, typename Fn>
void ForPieces(const uint8_t* table, int64_t id, int64_t later, int64_t blocks, Fn fn) {
  const int64_t row_bytes = blocks * F::kBytes;
  const uint8_t *row = table + id * row_bytes, *next = table + later * row_bytes;
  for (int64_t b = 0; b < blocks; b += kPieceBlocks<F>) {
    const int64_t n = std::min(kPieceBlocks<F>, blocks - b);
    for (int64_t at = b * F::kBytes; at < (b + n) * F::kBytes; at += 64) {
      __builtin_prefetch(next + at);
    }
    fn(row + b * F::kBytes, b, n);
  }
}

/// The same for a tiled table.
template <typename F, typename Fn>
void ForPiecesOfTiled(const uint8_t* table, int64_t id, int64_t blocks, Fn fn) {
  const int lane = static_cast<int>(id % kTileRows);
  const uint8_t* tile = table + id / kTileRows * blocks * kTileBytes<F>;
  for (int64_t b = 0; b < blocks; b += kPieceBlocks<F>) {
    uint8_t piece[kPieceBlocks<F> * F::kBytes];
    const int64_t n = std::min(kPieceBlocks<F>, blocks - b);
    for (int64_t i = 0; i < n; ++i, tile += kTileBytes<F>) {
      F::Unpack(tile, lane, piece + i * F::kBytes);
    }
    fn(piece, b, n);
  }
}

template <typename F, typename Id>
void LookUp(const TensorView& out, const TensorView& table, const Id* ids, int64_t cols,
            int64_t begin, int64_t end, bool stream) {
  // A float table's own dtype, or float32, which is what all others come as.
  const int64_t value_bytes = DtypeBytes(out.dtype()), blocks = cols / F::kWeights;
  const bool copy = !kIsBlockFormat<F> && value_bytes == F::kBytes;
  const int64_t ahead =
      std::max<int64_t>(1, kAheadBytes / std::max<int64_t>(1, blocks * F::kBytes));
  const uint8_t* rows = Data<const uint8_t>(table);
  uint8_t* to = Data<uint8_t>(out) + begin * cols * value_bytes;
  const auto convert = [&](const uint8_t* bytes, int64_t block, int64_t n) {
    uint8_t* piece = to + block * F::kWeights * value_bytes;
    const RowOut<float> floats(reinterpret_cast<float*>(piece), stream);
    if (copy && stream) {  // whole lines, as words of any meaning
      constexpr int64_t kWordBytes = sizeof(float);
      dequantize_row_f32(floats, bytes, n * F::kBytes / kWordBytes, Format::kF32);
    } else if (copy) {
      std::memcpy(piece, bytes, n * F::kBytes);
    } else {
      dequantize_row_f32(floats, bytes, n * F::kWeights, static_cast<Format>(F::kGgufType));
    }
  };
  for (int64_t t = begin; t < end; ++t, to += cols * value_bytes) {
    if (table.ndim() == 1) {
      ForPiecesOfTiled<F>(rows, ids[t], blocks, convert);
    } else {
      ForPieces<F>(rows, ids[t], ids[std::min(t + ahead, end - 1)], blocks, convert);
    }
  }
}

void EmbeddingLookupCpu(TensorView out, TensorView table, TensorView ids, int64_t format_number,
                        int64_t cols) {
  if (cols == 0) return;
  const int64_t row_bytes = cols * DtypeBytes(out.dtype());
  const bool stream =
      WorthStreaming(Data<void>(out), Data<void>(table), ids.size(0) * row_bytes, row_bytes);
  ParallelFor(ids.size(0), kBytesAtOnce / row_bytes, [&](int64_t begin, int64_t end) {
    DispatchFormat(static_cast<Format>(format_number), [&]<typename F>() {
      if (ids.dtype() == kI32) {
        LookUp<F>(out, table, Data<const int32_t>(ids), cols, begin, end, stream);
      } else {
        LookUp<F>(out, table, Data<const int64_t>(ids), cols, begin, end, stream);
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
    is read (IndexError); on CUDA, where they are not, one out of range gives a row of zeros.
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
  op.That(out.size(out.ndim() - 1) == w.cols, "out has shape [..., ", out.size(out.ndim() - 1),
          "], expected [..., ", w.cols, "] (from table)");
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
