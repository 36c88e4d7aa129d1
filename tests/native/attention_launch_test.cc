// How attention on CUDA is cut: segments, tiles, splits.
#include "kernels/attention_launch.h"

#include "check.h"

namespace mlf {
namespace {

void TestSegments() {
  MLF_EXPECT(SegmentOf(0) == 0 && SegmentOf(255) == 0 && SegmentOf(256) == 1);
  MLF_EXPECT(SegmentOf(8191) == 31 && SegmentOf(8192) == 32);
  MLF_EXPECT(CountSegments(0) == 0 && CountSegments(1) == 1 && CountSegments(4096) == 16);
  int before = 0;
  for (int64_t p = 0; p < (int64_t{1} << 21); p += 32) {  // pages never straddle segments
    const int segment = SegmentOf(p);
    MLF_EXPECT(segment == before || segment == before + 1);
    MLF_EXPECT(SegmentOf(p + 31) == segment && segment < kMaxSegments);
    MLF_EXPECT(SegmentBegin(segment) <= p);
    if (segment != before) MLF_EXPECT(SegmentBegin(segment) == p);
    // Blocks that share a row have like work: no segment is more than a 16th of all before it.
    if (segment + 1 < kMaxSegments) {
      const int64_t size = SegmentBegin(segment + 1) - SegmentBegin(segment);
      MLF_EXPECT(size == kFirstSegmentKeys || size * kSegmentsPerOctave <= SegmentBegin(segment));
    }
    before = segment;
  }
  MLF_EXPECT(before == kMaxSegments - 1 && SegmentOf(0x7FFFFFFF) == kMaxSegments - 1);
  MLF_EXPECT(MostSegmentsOfPages(0) == 0 && MostSegmentsOfPages(128) == 128);
  MLF_EXPECT(MostSegmentsOfPages(1 << 20) == kMaxSegments);
}

/// Every token and every head of a group is in one tile, and a tile's rows have room.
void TestTiles() {
  for (int64_t tokens : {1, 2, 5, 63, 64, 65, 1000}) {
    for (int64_t sequences : {1, 3, 64, 2000}) {
      for (int64_t group : {1, 2, 3, 7, 8, 16, 17, 64, 71, 200}) {
        for (auto [few, many] : {std::pair{16, 64}, {16, 16}, {4, 16}}) {
          const AttentionTiles t = CutTokens(tokens, sequences, group, few, many);
          MLF_EXPECT(t.rows == few || t.rows == many);
          MLF_EXPECT(t.tokens >= 1 && t.heads >= 1 && t.tokens * t.heads <= t.rows);
          MLF_EXPECT(t.tiles * t.tokens >= tokens && (t.tiles - 1) * t.tokens < tokens);
          MLF_EXPECT(int64_t{t.heads} * t.head_pieces >= group);
          MLF_EXPECT(t.runs >= 1 && t.runs <= 8 && t.runs <= t.tokens);
          MLF_EXPECT(t.blocks() == t.tiles * t.runs * t.head_pieces);
        }
      }
    }
  }
  const AttentionTiles decode = CutTokens(64, 64, 8, 16, 64);
  MLF_EXPECT(decode.rows == 16 && decode.tokens == 1 && decode.tiles == 64 && decode.runs == 1);
  const AttentionTiles prompt = CutTokens(4096, 1, 8, 16, 64);
  MLF_EXPECT(prompt.rows == 64 && prompt.tokens == 8 && prompt.tiles == 512 && prompt.runs == 1);
  const AttentionTiles mixed = CutTokens(4096, 64, 8, 16, 64);
  MLF_EXPECT(mixed.rows == 64 && mixed.tokens == 8 && mixed.runs == 8);
}

void TestSplits() {
  constexpr int64_t kAtOnce = 4 * 132;
  MLF_EXPECT(ChooseSplits(0, kAtOnce, 16, 0, 128) == 1);
  MLF_EXPECT(ChooseSplits(8, kAtOnce, 1, 64, 128) == 1);    // one segment
  MLF_EXPECT(ChooseSplits(8, kAtOnce, 16, 64, 128) == 16);  // never more than segments
  MLF_EXPECT(ChooseSplits(8, kAtOnce, 144, 64, 128) == 66);
  MLF_EXPECT(ChooseSplits(256, kAtOnce, 16, 2048, 128) == 2);
  MLF_EXPECT(ChooseSplits(512, kAtOnce, 16, 4096, 128) == 1);    // enough blocks without
  MLF_EXPECT(ChooseSplits(8, kAtOnce, 144, 1 << 20, 128) == 1);  // too much scratch memory
  for (int64_t blocks = 1; blocks < 1000; ++blocks) {
    const int splits = ChooseSplits(blocks, kAtOnce, 144, 64, 128);
    MLF_EXPECT(splits >= 1 && splits <= 144);
    MLF_EXPECT(splits == 1 || blocks * splits <= kAtOnce);  // none waits for others to end
    MLF_EXPECT(splits == 144 || blocks * (splits + 1) > kAtOnce);
  }
}

void TestBlocksAtOnce() {
  MLF_EXPECT(BlocksAtOnce(52 << 10, 8, 90) == 4 && BlocksAtOnce(52 << 10, 8, 80) == 3);
  MLF_EXPECT(BlocksAtOnce(52 << 10, 2, 90) == 2);  // registers
  MLF_EXPECT(BlocksAtOnce(10 << 10, 8, 90) == 8 && BlocksAtOnce(227 << 10, 2, 90) == 1);
}

void TestFold() {
  MLF_EXPECT(FoldBlocks(0) == 0 && FoldBlocks(1) == 1 && FoldBlocks(3) == 1 && FoldBlocks(4) == 1);
  MLF_EXPECT(FoldBlocks(5) == 2 && FoldBlocks(int64_t{1} << 33) == kMaxGrid);
  constexpr int64_t kMostRows = kMostScratchBytes / PartBytes(1);
  MLF_EXPECT(int64_t{FoldBlocks(kMostRows)} * kFoldThreads / 32 >= kMostRows);
}

void TestSharedBytes() {
  for (int capability : {80, 87}) MLF_EXPECT(SharedBytesOfBlock(capability) == 163 << 10);
  for (int capability : {90, 100, 101, 103, 110}) {
    MLF_EXPECT(SharedBytesOfBlock(capability) == 227 << 10);
  }
  for (int capability : {86, 89, 120, 121, 999}) {  // what is not known has the least
    MLF_EXPECT(SharedBytesOfBlock(capability) == 99 << 10);
  }
}

/// A block of the most fits, and of one dimension more does not.
void TestHeadDim() {
  for (int64_t shared : {99 << 10, 163 << 10, 227 << 10}) {
    for (int64_t tiles : {0, 1, 15, 16, 36000, 70000}) {
      for (int rows : {1, 4, 16}) {
        const int64_t most = MostPlainHeadDim(shared, tiles, rows);
        MLF_EXPECT(tiles + rows * most * 4 <= shared && tiles + rows * (most + 1) * 4 > shared);
      }
    }
  }
  MLF_EXPECT(MostPlainHeadDim(1000, 1000, 4) == 0 && MostPlainHeadDim(1000, 1001, 4) == 0);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestSegments();
  mlf::TestTiles();
  mlf::TestSplits();
  mlf::TestBlocksAtOnce();
  mlf::TestFold();
  mlf::TestSharedBytes();
  mlf::TestHeadDim();
  return 0;
}
