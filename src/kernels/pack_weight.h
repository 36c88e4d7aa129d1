// The tiled layout of weights (quant/tile.h). Counterparts: pack_weight.cc, linear.h (kernel).
#pragma once
#include "quant/formats.h"

namespace mlf {

/// Groups of 16 rows that a weight makes.
inline int64_t TileGroups(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

/// Bytes of one group.
inline int64_t GroupBytes(Format format, int64_t cols) {
  return kTileRows * RowBytes(format, cols);
}

/// Tiles of groups [begin, end) of a weight [rows, row_bytes] in the file's layout; `stream`: as in
/// base/row_out.h.
void PackGroups(uint8_t* tiles, const uint8_t* weight, Format format, int64_t rows, int64_t cols,
                int64_t begin, int64_t end, bool stream = false);

}  // namespace mlf
