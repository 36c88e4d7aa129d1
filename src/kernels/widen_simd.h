// Tiles of codebook formats as wide ones of bytes. Counterparts: widen_simd.cc, linear.cc.
#pragma once
#include <cstdint>

#include "base/simd_fn.h"
#include "quant/format_list.h"

namespace mlf {

/// Wide tiles (quant/iq2_xxs.h) of the next `tiles` tiles of a format with kIsWidened.
MLF_SIMD_FN(widen_tiles, WidenTiles,
            void(uint8_t* wide, const uint8_t* tile, int64_t tiles, Format format))

}  // namespace mlf
