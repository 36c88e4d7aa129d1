// F32: IEEE single, stored as it is. Listed in quant/format_list.h.
#pragma once
#include "quant/tile.h"

namespace mlf::quant {

//   bit    31     30 … 23    22 … 0
//          | sign | exponent | mantissa |     in little-endian order
struct F32 {
  using Value = float;
  static constexpr int32_t kGgufType = 0;
  static constexpr int64_t kWeights = 1, kBytes = sizeof(Value);

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    std::memcpy(out, row, kBytes * cols);
  }

  MLF_TILE_FN void Pack(const uint8_t* value, uint8_t* tile, int lane) {
    std::memcpy(tile + kBytes * lane, value, kBytes);
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* value) {
    std::memcpy(value, tile + kBytes * lane, kBytes);
  }
};

}  // namespace mlf::quant
