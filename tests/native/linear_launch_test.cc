// How the CUDA kernels of linear cut their work. Counterpart: src/kernels/linear_launch.h.
#include "kernels/linear_launch.h"

#include <set>
#include <utility>

#include "check.h"
#include "random_weight.h"

namespace mlf::cuda_linear {
namespace {

/// So many bytes from any place lie in so many words, and rows do not meet in a bank.
void TestRows() {
  for (int bytes = 1; bytes < 600; ++bytes) {
    for (int place = 0; place < kWord; ++place) {
      MLF_EXPECT((place + bytes + kWord - 1) / kWord <= WordsOf(bytes));
    }
    MLF_EXPECT((kWord - 1 + bytes + kWord - 1) / kWord == WordsOf(bytes));
    const int stride = RowStride(bytes);
    MLF_EXPECT(stride >= WordsOf(bytes) * kWord && stride / kWord % 2 == 1);
  }
}

/// Parts of shared memory follow each other, aligned, within what a block may have.
template <typename F>
void TestFewShared() {
  for (int tokens = 1; tokens <= kFewAtOnce; ++tokens) {
    const FewShared s = FewSharedOf<F>(tokens);
    MLF_EXPECT(s.x == kFewStages * kFewRows * RowStride(ChunkBytes<F>(kFewChunk)));
    MLF_EXPECT(s.scales - s.x == 8 * 2 * tokens * 64);
    MLF_EXPECT(s.sums - s.scales == 8 * F::kSums * 16 * 4 * (F::kHasMin ? 2 : 1));
    MLF_EXPECT(s.warp >= s.sums + (F::kHasMin ? 8 * F::kSums * tokens * 4 : 0));
    MLF_EXPECT(s.x % 16 == 0 && s.scales % 4 == 0 && s.sums % 4 == 0 && s.warp % 16 == 0);
    MLF_EXPECT(s.all == kFewWarps * s.warp + 2 * kFewWarps * 16 * tokens * 4);
  }
  for (int capability : {75, 80, 86, 89, 90, 100, 120}) {
    for (int64_t tokens : {1, 2, 5, 8, 9, 32}) {
      const int n = FewTokensAtOnce<F>(tokens, capability);
      MLF_EXPECT(n >= 1 && n <= kFewAtOnce && n <= tokens);
      MLF_EXPECT(FewSharedOf<F>(n).all <= SharedBytesOfBlock(capability));
    }
  }
  MLF_EXPECT(FewTokensAtOnce<F>(8, 80) == 8 && FewTokensAtOnce<F>(8, 90) == 8);
}

/// Tiles of every format fit where they must; narrow ones, two blocks of them, anywhere from 8.0
/// on.
template <typename F>
void TestTileShared() {
  for (int capability : {80, 86, 89, 90, 120}) {
    MLF_EXPECT((TileStages<F, NarrowTiles>(capability) == 2));
    const int stages = TileStages<F, WideTiles>(capability);
    const int64_t bytes = TileSharedBytes<F, WideTiles>(stages);
    MLF_EXPECT(stages == 0 || bytes <= SharedBytesOfBlock(capability));
    const int64_t more = TileSharedBytes<F, WideTiles>(stages == 0 ? 2 : 3);
    MLF_EXPECT(stages == 3 || more > SharedBytesOfBlock(capability));
    MLF_EXPECT((TakesWideTiles<F>(4096, 4096, capability, 132) == (stages > 0)));
  }
  MLF_EXPECT((TileStages<F, WideTiles>(90) == 3 && TileStages<F, WideTiles>(80) >= 2));
  MLF_EXPECT((BlocksAtOnce(TileSharedBytes<F, NarrowTiles>(2), 2, 90) == 2));
  // A step is whole in its chunk, and a chunk is there when its first step is decoded.
  MLF_EXPECT(TileChunk<F>() % WideTiles::kK == 0 && TileChunk<F>() / WideTiles::kK >= 2);
  // One wide tile for each multiprocessor, or narrow ones.
  MLF_EXPECT(!TakesWideTiles<F>(128, 1 << 20, 90, 132) && TakesWideTiles<F>(129, 1 << 20, 90, 132));
  MLF_EXPECT(!TakesWideTiles<F>(1024, 4096, 90, 132) && TakesWideTiles<F>(1025, 4096, 90, 132));
}

void TestFewBlocks() {
  const int64_t shared = 60 << 10;
  MLF_EXPECT(BlocksAtOnce(shared, 4, 90) == 3 && BlocksAtOnce(shared, 4, 80) == 2);
  MLF_EXPECT(BlocksAtOnce(200 << 10, 4, 90) == 1 && BlocksAtOnce(1 << 10, 4, 90) == 4);
  MLF_EXPECT(FewBlocks(1, shared, 90, 132) == 1);
  MLF_EXPECT(FewBlocks(17, shared, 90, 132) == 2);
  MLF_EXPECT(FewBlocks(128256, 200 << 10, 90, 132) == 132);
  MLF_EXPECT(FewBlocks(4096, shared, 90, 132) == 256);
  MLF_EXPECT(FewBlocks(128256, shared, 90, 132) == 264);
}

/// Every tile once; a band at a time.
void TestTiles() {
  for (auto [tokens, outputs] :
       {std::pair<int64_t, int64_t>{1, 1}, {1, 40}, {8, 3}, {9, 5}, {32, 32}, {23, 7}}) {
    std::set<std::pair<int64_t, int64_t>> seen;
    for (int64_t b = 0; b < tokens * outputs; ++b) {
      const TileAt at = TileOfBlock(b, tokens, outputs);
      MLF_EXPECT(at.tokens >= 0 && at.tokens < tokens && at.outputs >= 0 && at.outputs < outputs);
      MLF_EXPECT(at.tokens / kTileBand == b / (kTileBand * outputs));
      seen.emplace(at.tokens, at.outputs);
    }
    MLF_EXPECT(static_cast<int64_t>(seen.size()) == tokens * outputs);
  }
}

void TestFloats() {
  for (int64_t tokens : {1, 2, 3, 4, 5, 8, 9, 1000}) {
    const int n = FloatTokensAtOnce(tokens);
    MLF_EXPECT(n == 1 || n == 4 || n == 8);
    MLF_EXPECT(n >= std::min<int64_t>(tokens, 8) && FloatPasses(tokens, n) * n >= tokens);
  }
  MLF_EXPECT(FloatPasses(int64_t{1} << 40, 8) == kMaxGridY);
  MLF_EXPECT(FloatBlocks(1) == 1 && FloatBlocks(8) == 1 && FloatBlocks(9) == 2);
}

}  // namespace
}  // namespace mlf::cuda_linear

int main() {
  using namespace mlf;               // NOLINT(google-build-using-namespace)
  using namespace mlf::cuda_linear;  // NOLINT(google-build-using-namespace)
  TestRows();
  for (Format format : kAllFormats) {
    DispatchFormat(format, []<typename F>() {
      if constexpr (kIsBlockFormat<F>) {
        TestFewShared<F>();
        TestTileShared<F>();
      }
    });
  }
  TestFewBlocks();
  TestTiles();
  TestFloats();
  return 0;
}
