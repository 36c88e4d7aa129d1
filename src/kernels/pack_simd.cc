// Tiles of float weights. Counterparts: pack_simd.h, quant/tile.h (layout).
#include "kernels/pack_simd.h"

#include "kernels/turned_words.h"

namespace mlf::MLF_LEVEL {
namespace {

constexpr int64_t kWordBytes = 4;

/// The last columns, too few for four words.
template <int64_t kValueBytes>
MLF_INLINE void PackTail(uint8_t* tiles, const uint8_t* rows, int64_t row_bytes, int64_t begin) {
  for (int64_t at = begin; at < row_bytes; at += kValueBytes) {
    uint8_t* tile = tiles + at * kTileRows;
    for (int64_t r = 0; r < kTileRows; ++r) {
      std::memcpy(tile + r * kValueBytes, rows + r * row_bytes + at, kValueBytes);
    }
  }
}

/// A tile takes kTileRows values, so that byte `at` of a row belongs to the tile at kTileRows * at.
template <int64_t kValueBytes>
MLF_INLINE void Pack(uint8_t* tiles, const uint8_t* rows, int64_t row_bytes) {
  constexpr int64_t kStep = kTurnedWords * kWordBytes, kWordOfTiles = kTileRows * kWordBytes;
  int64_t at = 0;
  for (; at + kStep <= row_bytes; at += kStep) {
    const TurnedWords words = LoadTurned(rows + at, row_bytes);
#pragma GCC unroll 4
    for (int j = 0; j < kTurnedWords; ++j) {
      uint8_t* tile = tiles + kTileRows * at + kWordOfTiles * j;
      if constexpr (kValueBytes == kWordBytes) {
        Store(reinterpret_cast<float*>(tile), BitsToFloat(words.of[j]));
      } else {
        StoreHalfWords(tile, tile + kWordOfTiles / 2, words.of[j]);
      }
    }
  }
  PackTail<kValueBytes>(tiles, rows, row_bytes, at);
}

}  // namespace

void PackValues(uint8_t* tiles, const uint8_t* rows, int64_t cols, int64_t value_bytes) {
  if (value_bytes == kWordBytes) {
    Pack<kWordBytes>(tiles, rows, cols * value_bytes);
  } else {
    Pack<kWordBytes / 2>(tiles, rows, cols * value_bytes);
  }
}

}  // namespace mlf::MLF_LEVEL
