// Matrix multiplication on the CPU: packing, cutting work for threads. Counterparts: linear.h,
// linear_simd.cc (arithmetic).
#include "kernels/linear.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "kernels/linear_simd.h"

namespace mlf {
namespace {

// A thread takes at once: activations that stay in the second-level cache beside two pairs of
// groups, and weights enough that a start costs little, yet few, so that threads end together.
constexpr int64_t kChunkBytes = 512 << 10;
constexpr int64_t kChunkTokens = 16;  // a chunk holds at least, and a multiple of, this many
constexpr int64_t kGrainBytes = 128 << 10;
constexpr int64_t kGrainTokens = 16;  // from here on time goes with tokens, below with bytes
constexpr int64_t kPackBytes = 256 << 10;
constexpr int64_t kRowBytesAtOnce = 64 << 10;  // for work on rows of activations

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t GroupBytes(Format format, int64_t cols) { return kTileRows * RowBytes(format, cols); }

/// Tiles of a group from rows of the file's layout; rows that the weight does not have are zero.
template <typename F>
void PackGroup(uint8_t* tiles, const uint8_t* weight, int64_t row, int64_t rows, int64_t cols) {
  const int64_t blocks = cols / F::kWeights, row_bytes = blocks * F::kBytes;
  const int lanes = static_cast<int>(std::min(kTileRows, rows - row));
  if (lanes < kTileRows) std::fill_n(tiles, blocks * kTileBytes<F>, uint8_t{0});
  const uint8_t* source = weight + row * row_bytes;
  for (int64_t b = 0; b < blocks; ++b, tiles += kTileBytes<F>, source += F::kBytes) {
    for (int lane = 0; lane < lanes; ++lane) F::Pack(source + lane * row_bytes, tiles, lane);
  }
}

void PackGroups(uint8_t* tiles, const uint8_t* weight, Format format, int64_t rows, int64_t cols,
                int64_t begin, int64_t end) {
  const int64_t group_bytes = GroupBytes(format, cols);
  DispatchFormat(format, [&]<typename F>() {
    for (int64_t g = begin; g < end; ++g, tiles += group_bytes) {
      PackGroup<F>(tiles, weight, g * kTileRows, rows, cols);
    }
  });
}

void PackWeightCpu(TensorView packed, TensorView weight, int64_t format_number, int64_t cols) {
  const Format format = static_cast<Format>(format_number);
  const int64_t rows = weight.size(0), group_bytes = GroupBytes(format, cols);
  const uint8_t* source = Data<const uint8_t>(weight);
  uint8_t* tiles = Data<uint8_t>(packed);
  if (group_bytes == 0) return;
  ParallelFor(CeilDiv(rows, kTileRows), kPackBytes / group_bytes, [&](int64_t begin, int64_t end) {
    PackGroups(tiles + begin * group_bytes, source, format, rows, cols, begin, end);
  });
}

void QuantizeActivationsCpu(TensorView q, TensorView x, int64_t planes) {
  const int64_t tokens = x.size(0), cols = x.size(1), row_bytes = QuantizedRowBytes(cols, planes);
  if (cols == 0) return;
  uint8_t* out = Data<uint8_t>(q);
  const float* in = Data<const float>(x);
  ParallelFor(tokens, kRowBytesAtOnce / row_bytes, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      quantize_row(out + t * row_bytes, in + t * cols, cols, static_cast<int>(planes));
    }
  });
}

/// Memory of this thread for tiles made on the fly; grows, and lives as long as the thread.
uint8_t* ScratchTiles(int64_t bytes) {
  thread_local Buffer scratch;
  if (scratch.bytes() < bytes) scratch = Buffer(bytes);
  return scratch.data();
}

/// The chunk of tokens that a thread takes at once.
int64_t TokensAtOnce(int64_t tokens, int64_t x_row_bytes) {
  const int64_t fit = kChunkBytes / std::max<int64_t>(1, x_row_bytes) / kChunkTokens * kChunkTokens;
  return std::min(tokens, std::max(kChunkTokens, fit));
}

/// Pairs of groups that a thread takes at once.
int64_t PairsAtOnce(int64_t pair_bytes, int64_t tokens) {
  return kGrainBytes / std::max<int64_t>(1, pair_bytes) /
         std::max<int64_t>(1, tokens / kGrainTokens);
}

/// Groups [begin, end) and tokens [t0, t1) of the product.
void ComputeGroups(const LinearTask& task, const uint8_t* weight, bool tiled, int64_t begin,
                   int64_t end, int64_t t0, int64_t t1) {
  if (tiled) {
    linear_groups(task, weight + begin * task.group_bytes, begin, end - begin, t0, t1);
    return;
  }
  uint8_t* tiles = ScratchTiles(kGroupsPerTile * task.group_bytes);
  for (int64_t g = begin; g < end; g += kGroupsPerTile) {
    const int64_t last = std::min(end, g + kGroupsPerTile);
    PackGroups(tiles, weight, task.format, task.rows, task.cols, g, last);
    linear_groups(task, tiles, g, last - g, t0, t1);
  }
}

void LinearCpu(TensorView out, TensorView x, TensorView weight, TensorView bias,
               int64_t format_number, int64_t cols) {
  const Format format = static_cast<Format>(format_number);
  const int64_t tokens = out.size(0), rows = out.size(1);
  const LinearTask task{.format = format,
                        .out = Data<float>(out),
                        .x = Data<const uint8_t>(x),
                        .bias = bias.data_ptr() == nullptr ? nullptr : Data<const float>(bias),
                        .rows = rows,
                        .cols = cols,
                        .x_row_bytes = QuantizedRowBytes(cols, ActivationPlanes(format)),
                        .group_bytes = GroupBytes(format, cols)};
  const uint8_t* tiles = Data<const uint8_t>(weight);
  const bool tiled = weight.ndim() == 1;
  const int64_t groups = CeilDiv(rows, kTileRows), pairs = CeilDiv(groups, kGroupsPerTile);
  if (tokens == 0 || rows == 0) return;
  // Token chunks outermost: a chunk stays in cache while all weights pass by it.
  const int64_t chunk = TokensAtOnce(tokens, task.x_row_bytes);
  const int64_t grain = PairsAtOnce(kGroupsPerTile * task.group_bytes, chunk);
  ParallelFor(CeilDiv(tokens, chunk) * pairs, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t c = begin / pairs, pair = begin % pairs;
      const int64_t n = std::min(pairs - pair, end - begin);
      ComputeGroups(task, tiles, tiled, pair * kGroupsPerTile,
                    std::min(groups, (pair + n) * kGroupsPerTile), c * chunk,
                    std::min(tokens, (c + 1) * chunk));
      begin += n;
    }
  });
}

/// Row `id` of a table in either layout, as float32.
template <typename F>
void LookUp(float* out, const uint8_t* table, bool tiled, int64_t id, int64_t cols) {
  const int64_t blocks = cols / F::kWeights;
  if (!tiled) return F::Dequantize(table + id * blocks * F::kBytes, out, cols);
  const uint8_t* tile = table + id / kTileRows * blocks * kTileBytes<F>;
  for (int64_t b = 0; b < blocks; ++b, tile += kTileBytes<F>) {
    uint8_t block[F::kBytes];
    F::Unpack(tile, static_cast<int>(id % kTileRows), block);
    F::Dequantize(block, out + b * F::kWeights, F::kWeights);
  }
}

void EmbeddingLookupCpu(TensorView out, TensorView table, TensorView ids, int64_t format_number,
                        int64_t cols) {
  if (cols == 0) return;
  float* rows = Data<float>(out);
  const int32_t* id = Data<const int32_t>(ids);
  const uint8_t* source = Data<const uint8_t>(table);
  const bool tiled = table.ndim() == 1;
  ParallelFor(ids.size(0), kRowBytesAtOnce / (4 * cols), [&](int64_t begin, int64_t end) {
    DispatchFormat(static_cast<Format>(format_number), [&]<typename F>() {
      for (int64_t t = begin; t < end; ++t) {
        LookUp<F>(rows + t * cols, source, tiled, id[t], cols);
      }
    });
  });
}

[[maybe_unused]] const bool kFilled = pack_weight_kernel.SetCpu(PackWeightCpu) &&
                                      quantize_activations_kernel.SetCpu(QuantizeActivationsCpu) &&
                                      linear_kernel.SetCpu(LinearCpu) &&
                                      embedding_lookup_kernel.SetCpu(EmbeddingLookupCpu);

}  // namespace

int64_t PackedBytes(Format format, int64_t rows, int64_t cols) {
  return CeilDiv(rows, kTileRows) * GroupBytes(format, cols);
}

int ActivationPlanes(Format format) {
  return DispatchFormat(format, []<typename F>() {
    if constexpr (kIsBlockFormat<F>) {
      return kActivationPlanes<F>;
    } else {
      return 0;
    }
  });
}

int64_t QuantizedRowBytes(int64_t cols, int64_t planes) {
  if (planes == 0) return cols * static_cast<int64_t>(sizeof(float));
  const size_t block = planes == 1 ? sizeof(ActivationBlock<1>) : sizeof(ActivationBlock<2>);
  return cols / kQuantBlock * static_cast<int64_t>(block);
}

}  // namespace mlf
