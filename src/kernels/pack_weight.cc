// Op my_llm_ffi.pack_weight: weights in the tiled layout. Counterparts: pack_weight.h, linear.h
// (kernel), pack_simd.cc.
#include "kernels/pack_weight.h"

#include <algorithm>

#include "base/op.h"
#include "base/thread_pool.h"
#include "kernels/linear.h"
#include "kernels/pack_simd.h"
#include "kernels/weight_argument.h"

namespace mlf {
namespace {

constexpr int64_t kPackBytes = 256 << 10;  // of tiles that a thread makes at once

void PackWeightCpu(TensorView packed, TensorView weight, int64_t format_number, int64_t cols) {
  const Format format = static_cast<Format>(format_number);
  const int64_t rows = weight.size(0), group_bytes = GroupBytes(format, cols);
  const uint8_t* source = Data<const uint8_t>(weight);
  uint8_t* tiles = Data<uint8_t>(packed);
  if (group_bytes == 0) return;
  const bool stream = WorthStreaming(tiles, source, TileGroups(rows) * group_bytes, group_bytes);
  ParallelFor(TileGroups(rows), kPackBytes / group_bytes, [&](int64_t begin, int64_t end) {
    PackGroups(tiles + begin * group_bytes, source, format, rows, cols, begin, end, stream);
  });
}

[[maybe_unused]] const bool kFilled = pack_weight_kernel.SetCpu(PackWeightCpu);

const Op kPackWeight{
    "pack_weight",
    "(weight: T['rows row_bytes', 'u8'], *, format: " MLF_FORMAT_LITERAL
    ") -> T['(rows+15)//16*16 row_bytes', 'u8']",
    R"(A weight in the tiled layout that the CPU's matrix multiplication reads fastest.

The same bytes in another order: groups of 16 rows (the last one padded with rows of zeros), each a
run of tiles in which lanes are rows. ``linear`` and ``embedding_lookup`` take the result with
``packed=True`` and ``rows=`` the number of rows before padding, and give the same results bit for
bit as with the weight itself. For CPUs alone: CUDA kernels of ``linear`` read the weight as it is
best, and a CUDA tensor is refused (NotImplementedError).

weight: Rows of whole blocks, as in a GGUF file.
format: Name of the blocks' format.
)"};

void PackWeight(TensorView weight, TensorView packed, const ffi::String& format) {
  kPackWeight.Check(weight, packed);
  const WeightArgument w =
      ReadWeight(kPackWeight, {.name = "weight", .tensor = weight, .format = format});
  const int64_t padded = TileGroups(w.rows) * kTileRows;
  kPackWeight.That(packed.size(0) == padded, "out has ", packed.size(0), " rows, expected ", padded,
                   " (rows of weight, up to a multiple of ", kTileRows, ")");
  if (packed.numel() == 0) return;
  const ArrayView tiles(Data<uint8_t>(packed), kU8, {packed.numel()}, packed.device());
  pack_weight_kernel(weight.device(), tiles, w.bytes, static_cast<int64_t>(w.format), w.cols);
}

TVM_FFI_STATIC_INIT_BLOCK() { kPackWeight.Register(PackWeight); }

}  // namespace

int64_t PackedBytes(Format format, int64_t rows, int64_t cols) {
  return TileGroups(rows) * GroupBytes(format, cols);
}

void PackGroups(uint8_t* tiles, const uint8_t* weight, Format format, int64_t rows, int64_t cols,
                int64_t begin, int64_t end, bool stream) {
  const int64_t group_bytes = GroupBytes(format, cols);
  for (int64_t g = begin; g < end; ++g, tiles += group_bytes) {
    const int64_t count = std::min(kTileRows, rows - g * kTileRows);
    pack_group({tiles, stream}, weight + g * group_bytes, count, cols, format);
  }
}

}  // namespace mlf
