// How attention on CUDA is cut into blocks, segments and splits; no CUDA in it, so that native
// tests cover it. Counterparts: attention_walk.cuh, attention.cu, paged_attention.cu.
#pragma once
#include <algorithm>
#include <cstdint>

#include "base/half.h"
#include "kernels/grid_launch.h"
#include "kernels/shared_memory.h"

namespace mlf {

// ---- segments -----------------------------------------------------------------------------------

// A row gathers its keys segment by segment and adds the segments up in order, whichever blocks
// gather them: the cut depends on the position of a key alone, so that a row has the same bits
// alone, in any batch, in any chunk of a prompt and for any split. Segments of 256 keys up to
// position 8192; from there they are a 16th to a 32nd of what lies before them, so that their
// number, and with it the scratch memory, grows with the logarithm of the length.
inline constexpr int kFirstSegmentKeys = 256;
inline constexpr int kSegmentsPerOctave = 16;
inline constexpr int kOctaves = 7;  // beyond position 2^20 all is one segment
inline constexpr int kMaxSegments = kSegmentsPerOctave * (kOctaves + 2);

/// The segment of position p >= 0.
MLF_HOST_DEVICE inline int SegmentOf(int64_t p) {
  int64_t first = p / kFirstSegmentKeys;
  int octave = 0;
  while (first >= 2 * kSegmentsPerOctave) {
    first /= 2;
    if (++octave > kOctaves) return kMaxSegments - 1;
  }
  return static_cast<int>(first) + kSegmentsPerOctave * octave;
}

/// The first position of a segment.
constexpr int64_t SegmentBegin(int segment) {
  const int octave = std::max(0, segment / kSegmentsPerOctave - 1);
  return (int64_t{kFirstSegmentKeys} << octave) * (segment - kSegmentsPerOctave * octave);
}

/// Segments of positions [0, n).
inline int CountSegments(int64_t n) { return n == 0 ? 0 : SegmentOf(n - 1) + 1; }

/// At most so many segments in any `n` pages, whatever positions they hold.
inline int MostSegmentsOfPages(int64_t n) {
  return static_cast<int>(std::min<int64_t>(n, kMaxSegments));
}

// ---- tiles --------------------------------------------------------------------------------------

/// A block takes the rows (a row is one query head of one token) of `tokens` neighbouring tokens
/// and `heads` of the query heads that share a key/value head.
struct AttentionTiles {
  int rows;         // room in a block; tokens * heads of them are used
  int tokens;       // per tile; tiles begin at multiples of it
  int head_pieces;  // into which the heads of a group are cut
  int heads;        // per piece; the last may have fewer
  int runs;         // blocks that share a tile's runs of tokens with the same keys
  int64_t tiles;

  int64_t blocks() const { return tiles * runs * head_pieces; }
};

/// `rows` for tiles of few tokens, `most_rows` for those of many; `sequences` are those that the
/// tokens belong to, at most. Any cut gives the same bits.
inline AttentionTiles CutTokens(int64_t tokens, int64_t sequences, int64_t group, int rows,
                                int most_rows) {
  AttentionTiles t{};
  const int64_t each = sequences <= 0 ? tokens : (tokens + sequences - 1) / sequences;
  t.rows = each * group > rows ? most_rows : rows;
  t.head_pieces = static_cast<int>((group + t.rows - 1) / t.rows);
  t.heads = static_cast<int>((group + t.head_pieces - 1) / t.head_pieces);
  t.tokens = static_cast<int>(std::clamp<int64_t>(t.rows / t.heads, 1, std::max<int64_t>(1, each)));
  t.tiles = (tokens + t.tokens - 1) / t.tokens;
  // A tile of t.tokens tokens has at most as many runs; more sequences than that make no more.
  t.runs = static_cast<int>(std::clamp<int64_t>(sequences, 1, std::min(t.tokens, 8)));
  return t;
}

// ---- splits -------------------------------------------------------------------------------------

// The most scratch memory of one call. Untuned: chosen by arithmetic, not by a measurement.
inline constexpr int64_t kMostScratchBytes = int64_t{256} << 20;

/// Bytes of scratch of one row and segment: the sums over head_dim, the maximum and the weight.
constexpr int64_t PartBytes(int64_t head_dim) { return (head_dim + 2) * int64_t{sizeof(float)}; }

/// Into how many blocks the segments of a row are dealt, of those that run at once: all blocks
/// together are no more than these, or some would begin when others have ended. 1 where `blocks`
/// are most of them.
inline int ChooseSplits(int64_t blocks, int64_t at_once, int segments, int64_t rows,
                        int64_t head_dim) {
  if (blocks == 0 || 2 * blocks > at_once || segments <= 1) return 1;
  if (rows * segments * PartBytes(head_dim) > kMostScratchBytes) return 1;
  return static_cast<int>(std::min<int64_t>(segments, at_once / blocks));
}

inline constexpr int kFoldThreads = 128;  // a warp per row

/// Blocks that fold the parts of rows. They take no more than theirs: kMostScratchBytes leaves rows
/// too few for the most blocks of a grid.
constexpr unsigned FoldBlocks(int64_t rows) { return BlocksOf(rows, kFoldThreads / 32); }

/// The most head_dim of a block without tensor cores: `rows` queries in float32 lie behind the
/// `tile_bytes` of its keys and values.
constexpr int64_t MostPlainHeadDim(int64_t shared_bytes, int64_t tile_bytes, int rows) {
  const int64_t row_bytes = rows * int64_t{sizeof(float)};
  return std::max<int64_t>(0, shared_bytes - tile_bytes) / row_bytes;
}

}  // namespace mlf
