// Groups of the tiled layout. Counterparts: pack_simd.h, quant/tile.h (layout).
#include "kernels/pack_simd.h"

#include <type_traits>

#include "base/simd_row.h"
#include "kernels/turned_words.h"

namespace mlf::MLF_LEVEL {
namespace {

constexpr int64_t kWordBytes = 4, kTurnedBytes = kTurnedWords * kWordBytes;
constexpr int64_t kAheadBytes = 1024;  // of each row

// ---- all lanes of a tile at once ----------------------------------------------------------------

/// The lane (quant/tile.h) that is all of them: their blocks are `stride` apart.
struct AllLanes {
  int64_t stride;
};

/// A word of every lane.
struct Words {
  I32 lanes;
};
template <typename Fn>
MLF_INLINE Words MapWords(Fn fn) {
  return {Map<I32>([&](int p) MLF_TILE_LAMBDA { return (NativeI32)fn(p); })};
}
MLF_INLINE NativeU32 Part(const Words& w, int p) { return (NativeU32)w.lanes.part[p]; }
MLF_INLINE Words operator&(Words a, uint32_t b) {
  return MapWords([&](int p) MLF_TILE_LAMBDA { return Part(a, p) & b; });
}
MLF_INLINE Words operator|(Words a, Words b) {
  return MapWords([&](int p) MLF_TILE_LAMBDA { return Part(a, p) | Part(b, p); });
}
MLF_INLINE Words operator^(Words a, uint32_t b) {
  return MapWords([&](int p) MLF_TILE_LAMBDA { return Part(a, p) ^ b; });
}
MLF_INLINE Words operator*(Words a, uint32_t b) {
  return MapWords([&](int p) MLF_TILE_LAMBDA { return Part(a, p) * b; });
}
MLF_INLINE Words operator<<(Words a, int n) {
  return MapWords([&](int p) MLF_TILE_LAMBDA { return Part(a, p) << n; });
}
MLF_INLINE Words operator>>(Words a, int n) {
  return MapWords([&](int p) MLF_TILE_LAMBDA { return Part(a, p) >> n; });
}
MLF_INLINE void StoreWord(uint8_t* line, Words w) {
  Store(reinterpret_cast<float*>(line), BitsToFloat(w.lanes));
}

/// kBytes of every lane, side by side.
template <int kBytes>
MLF_INLINE void Gather(const uint8_t* from, uint8_t* to, AllLanes all) {
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) std::memcpy(to + kBytes * r, from + r * all.stride, kBytes);
}
MLF_INLINE void PackByte(const uint8_t* byte, uint8_t* tile, AllLanes all) {
  Gather<1>(byte, tile, all);
}
MLF_INLINE void PackHalf(const uint8_t* half, uint8_t* tile, AllLanes all) {
  Gather<2>(half, tile, all);
}
template <int kLines>
MLF_INLINE void PackLines(const uint8_t* quants, uint8_t* lines, AllLanes all, uint32_t flip = 0) {
  static_assert(kLines % kTurnedWords == 0);
#pragma GCC unroll 4
  for (int j = 0; j < kLines; j += kTurnedWords) {
    const TurnedWords words = LoadTurned(quants + kWordBytes * j, all.stride);
#pragma GCC unroll 4
    for (int i = 0; i < kTurnedWords; ++i) {
      StoreWord(lines + kLineBytes * (j + i), Words{words.of[i]} ^ flip);
    }
  }
}
MLF_INLINE void PackHighBits(const uint8_t* word, uint8_t* line, AllLanes all) {
  alignas(kLineBytes) uint8_t bits[kLineBytes];
  Gather<kWordBytes>(word, bits, all);
  StoreWord(line,
            quant::SpreadHighBits(Words{FloatToBits(Load(reinterpret_cast<const float*>(bits)))}));
}

/// Stands for the block of a row in functions of quant/super_block.h: those of all lanes, turned.
struct TurnedBlocks {
  const float* words;
};
MLF_INLINE TurnedBlocks operator+(TurnedBlocks b, int bytes) {
  return {b.words + bytes / kWordBytes * kLanes};
}
MLF_INLINE Words LoadWord(TurnedBlocks b) { return {FloatToBits(Load(b.words))}; }

// ---- tiles --------------------------------------------------------------------------------------

template <typename F>
MLF_INLINE void PackTile(uint8_t* tile, const uint8_t* blocks, AllLanes all) {
  if constexpr (std::is_base_of_v<quant::SuperBlock<F>, F>) {
    for (int r = 0; r < kTileRows; ++r) F::PackHead(blocks + r * all.stride, tile, r);
    constexpr int kSteps = F::kBytes / kTurnedBytes;  // what is left is of the head
    float words[kSteps * kTurnedWords][kLanes];
    for (int s = 0; s < kSteps; ++s) {
      const TurnedWords turned = LoadTurned(blocks + s * kTurnedBytes, all.stride);
#pragma GCC unroll 4
      for (int i = 0; i < kTurnedWords; ++i) {
        Store(words[s * kTurnedWords + i], BitsToFloat(turned.of[i]));
      }
    }
    F::PackWeights(TurnedBlocks{words[0]}, tile + F::kHeadBytes);
  } else {
    F::Pack(blocks, tile, all);
  }
}

/// Asks for what all rows have kAheadBytes after byte `at`, or the next group has there.
MLF_INLINE void PrefetchRows(const uint8_t* rows, int64_t row_bytes, int64_t at) {
  int64_t ahead = at + kAheadBytes;
  if (ahead >= row_bytes) ahead += (kTileRows - 1) * row_bytes;
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r, ahead += row_bytes) Prefetch(rows, ahead);
}

/// Tiles of the blocks in bytes [begin, end) of each row.
template <typename F, bool kAhead>
MLF_INLINE void PackBlocks(uint8_t* tiles, const uint8_t* rows, int64_t row_bytes, int64_t begin,
                           int64_t end) {
  for (int64_t at = begin; at < end; at += F::kBytes, tiles += kTileBytes<F>) {
    if constexpr (kAhead) {
      for (int64_t i = 0; i < F::kBytes; i += kCacheLine) PrefetchRows(rows, row_bytes, at + i);
    }
    PackTile<F>(tiles, rows + at, {row_bytes});
  }
}

/// The same of values: byte `at` of a row belongs to the tile at kTileRows * at.
template <int64_t kValueBytes, bool kAhead>
MLF_INLINE void PackValues(uint8_t* tiles, const uint8_t* rows, int64_t row_bytes, int64_t begin,
                           int64_t end) {
  constexpr int64_t kWordOfTiles = kTileRows * kWordBytes;
  int64_t at = begin;
  for (; at + kTurnedBytes <= end; at += kTurnedBytes) {
    if (kAhead && at % kCacheLine == 0) PrefetchRows(rows, row_bytes, at);
    const TurnedWords words = LoadTurned(rows + at, row_bytes);
#pragma GCC unroll 4
    for (int j = 0; j < kTurnedWords; ++j, tiles += kWordOfTiles) {
      if constexpr (kValueBytes == kWordBytes) {
        Store(reinterpret_cast<float*>(tiles), BitsToFloat(words.of[j]));
      } else {
        StoreHalfWords(tiles, tiles + kWordOfTiles / 2, words.of[j]);
      }
    }
  }
  for (; at < end; at += kValueBytes, tiles += kTileRows * kValueBytes) {  // too few for four words
    Gather<kValueBytes>(rows + at, tiles, {row_bytes});
  }
}

template <typename F, bool kAhead>
MLF_INLINE void PackSome(uint8_t* tiles, const uint8_t* rows, int64_t row_bytes, int64_t begin,
                         int64_t end) {
  if constexpr (kIsBlockFormat<F>) {
    PackBlocks<F, kAhead>(tiles, rows, row_bytes, begin, end);
  } else {
    PackValues<F::kBytes, kAhead>(tiles, rows, row_bytes, begin, end);
  }
}

/// A few tiles at a time, whole lines of the cache, from where they leave past it.
template <typename F>
MLF_INLINE void StreamGroup(uint8_t* tiles, const uint8_t* rows, int64_t row_bytes) {
  constexpr int64_t kStep = (512 / F::kBytes > 4 ? 512 / F::kBytes / 4 * 4 : 4) * F::kBytes;
  static_assert(kTileRows * kStep % kCacheLine == 0);
  alignas(kCacheLine) uint8_t stage[kTileRows * kStep];
  for (int64_t at = 0; at < row_bytes; at += kStep) {
    const int64_t end = at + kStep < row_bytes ? at + kStep : row_bytes;
    PackSome<F, true>(stage, rows, row_bytes, at, end);
    StreamLines(tiles + kTileRows * at, stage, kTileRows * (end - at));
  }
}

/// Lane by lane; rows that the weight does not have are zero.
template <typename F>
MLF_INLINE void PackFew(uint8_t* tiles, const uint8_t* rows, int64_t row_bytes, int count) {
  std::memset(tiles, 0, kTileRows * row_bytes);
  for (int64_t at = 0; at < row_bytes; at += F::kBytes, tiles += kTileBytes<F>) {
    for (int r = 0; r < count; ++r) F::Pack(rows + r * row_bytes + at, tiles, r);
  }
}

}  // namespace

void PackGroup(RowOut<uint8_t> tiles, const uint8_t* rows, int64_t count, int64_t cols,
               Format format) {
  DispatchFormat(format, [&]<typename F>() {
    const int64_t row_bytes = cols / F::kWeights * F::kBytes;
    if (count < kTileRows) {
      PackFew<F>(tiles.data, rows, row_bytes, static_cast<int>(count));
    } else if (tiles.stream) {
      StreamGroup<F>(tiles.data, rows, row_bytes);
      EndStream();
    } else {
      PackSome<F, false>(tiles.data, rows, row_bytes, 0, row_bytes);
    }
  });
}

}  // namespace mlf::MLF_LEVEL
