// Groups of the tiled layout, turned in registers. Counterparts: pack_simd.cc, pack_weight.cc.
#pragma once
#include <cstdint>

#include "base/row_out.h"
#include "base/simd_fn.h"
#include "quant/format_list.h"

namespace mlf {

/// One group of tiles from its first 1 … 16 rows of `cols` weights; those it does not have are
/// zero bytes.
MLF_SIMD_FN(pack_group, PackGroup,
            void(RowOut<uint8_t> tiles, const uint8_t* rows, int64_t count, int64_t cols,
                 Format format))

}  // namespace mlf
