// F16: IEEE half. Listed in quant/format_list.h.
#pragma once
#include "quant/tile.h"

namespace mlf::quant {

//   bit    15     14 … 10    9 … 0
//          | sign | exponent | mantissa |     in little-endian order
struct F16 {
  using Value = mlf::F16;
  static constexpr int32_t kGgufType = 1;
  static constexpr int64_t kWeights = 1, kBytes = sizeof(Value);

  MLF_TILE_FN void Dequantize(const uint8_t* row, float* out, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) {
      Value value;
      std::memcpy(&value, row + kBytes * k, kBytes);
      out[k] = static_cast<float>(value);
    }
  }

  MLF_TILE_FN void Pack(const uint8_t* value, uint8_t* tile, int lane) {
    std::memcpy(tile + kBytes * lane, value, kBytes);
  }
  MLF_TILE_FN void Unpack(const uint8_t* tile, int lane, uint8_t* value) {
    std::memcpy(value, tile + kBytes * lane, kBytes);
  }
};

}  // namespace mlf::quant
