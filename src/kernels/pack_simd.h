// Tiles of float weights, turned in registers. Counterparts: pack_simd.cc, pack_weight.cc.
#pragma once
#include <cstdint>

#include "base/simd_fn.h"

namespace mlf {

/// One group of the tiled layout from 16 rows of `cols` values of value_bytes (2 or 4) each.
MLF_SIMD_FN(pack_values, PackValues,
            void(uint8_t* tiles, const uint8_t* rows, int64_t cols, int64_t value_bytes))

}  // namespace mlf
