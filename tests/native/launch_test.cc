// Grids of CUDA kernels, which are plain arithmetic: no rows, few, around a tile, more than a grid
// may have. Counterparts: src/kernels/*_launch.h; those of attention and linear have their own.
#include "check.h"
#include "kernels/cuda_elements_launch.h"
#include "kernels/embedding_lookup_launch.h"
#include "kernels/kv_append_launch.h"
#include "kernels/logit_mask_launch.h"
#include "kernels/norm_launch.h"
#include "kernels/penalties_launch.h"
#include "kernels/rope_launch.h"
#include "kernels/sampling_launch.h"

namespace mlf {
namespace {

constexpr int64_t kHuge = INT64_MAX;
constexpr int64_t kMostOfCuda = 0x7FFFFFFF, kMostOfCudaY = 0xFFFF;
static_assert(kMaxGrid <= kMostOfCuda && kMaxGridY <= kMostOfCudaY);

/// `blocks(n)` deals n things, `per_block` to a block, to `most` blocks at most.
template <typename F>
void ExpectDeals(F blocks, int64_t per_block, int64_t most = kMaxGrid) {
  MLF_EXPECT(blocks(0) == 0 && blocks(1) == 1 && blocks(2) == (per_block == 1 ? 2 : 1));
  for (int64_t tiles : {int64_t{1}, int64_t{2}, int64_t{1000}, most - 1, most}) {
    const int64_t n = tiles * per_block;
    MLF_EXPECT(blocks(n) == tiles);
    MLF_EXPECT(blocks(n - 1) == tiles - (per_block == 1 ? 1 : 0));
    MLF_EXPECT(blocks(n + 1) == std::min(most, tiles + 1));
  }
  MLF_EXPECT(blocks((int64_t{1} << 32) * per_block) == most);  // not its low bits
}

void TestGrids() {
  for (int64_t per_block : {1, 2, 7, 32, 256}) {
    ExpectDeals([=](int64_t n) { return BlocksOf(n, per_block); }, per_block);
    ExpectDeals([=](int64_t n) { return BlocksAlongY(n, per_block); }, per_block, kMaxGridY);
    MLF_EXPECT(BlocksOf(kHuge, per_block) == kMaxGrid);
    MLF_EXPECT(BlocksAlongY(kHuge, per_block) == kMaxGridY);
  }
  ExpectDeals([](int64_t n) { return BlocksOf(n); }, 1);
  for (int lanes : {1, 4, 8}) {
    ExpectDeals([=](int64_t n) { return ElementBlocks(n, lanes); }, 512 * lanes);
  }
  for (int threads : {kTiledLookupThreads, kLookupThreads}) {
    ExpectDeals([=](int64_t n) { return LookupBlocksOfRow(n, threads); }, threads, kMaxGridY);
  }
  ExpectDeals(RopeBlocks, 1);
}

/// A warp holds 128 vectors of a row in its registers; longer rows take a block.
void TestNorm() {
  for (int64_t n : {1, 2, 127, 128}) {
    MLF_EXPECT(NormThreadsOfRow(n) == 32);
    ExpectDeals([=](int64_t rows) { return NormBlocks(rows, n); }, 8);
  }
  for (int64_t n : {int64_t{129}, int64_t{4096}, kHuge}) {
    MLF_EXPECT(NormThreadsOfRow(n) == kNormThreads);
    ExpectDeals([=](int64_t rows) { return NormBlocks(rows, n); }, 1);
  }
}

void TestKvAppend() {
  ExpectDeals(AppendBlocks, 32);
  ExpectDeals(AppendHeadBlocks, 1, kMaxGridY);
  ExpectDeals([](int64_t entries) { return RotateBlocks(entries, 1); }, 8);
  ExpectDeals([](int64_t entries) { return RotateBlocks(entries, 8); }, 1);
  MLF_EXPECT(RotateBlocks(3, 5) == 2 && RotateBlocks(3, 0) == 0);
  MLF_EXPECT(RotateBlocks(int64_t{1} << 40, 1 << 20) == kMaxGrid);
  ExpectDeals(CopyPageBlocks, 256);
}

// ---- logits -------------------------------------------------------------------------------------

void TestMask() {
  for (int64_t chunk : {1, 2048, 4096}) {
    MLF_EXPECT(MaskChunks(0, chunk) == 1 && MaskChunks(1, chunk) == 1);
    for (int64_t n : {int64_t{1}, int64_t{2}, int64_t{63}, int64_t{1} << 33}) {
      MLF_EXPECT(MaskChunks(n * chunk, chunk) == n && MaskChunks(n * chunk + 1, chunk) == n + 1);
      MLF_EXPECT(MaskChunks(n * chunk - 1, chunk) == std::max<int64_t>(1, chunk == 1 ? n - 1 : n));
    }
  }
  MLF_EXPECT(MaskInterleavedBlocks(0, 132) == 0 && MaskInterleavedBlocks(1, 132) == 2);
  MLF_EXPECT(MaskInterleavedBlocks(197, 132) == 394 && MaskInterleavedBlocks(198, 132) == 396);
  MLF_EXPECT(MaskInterleavedBlocks(199, 132) == 396);
  MLF_EXPECT(MaskInterleavedBlocks(int64_t{1} << 40, 132) == 396);
  MLF_EXPECT(MaskResetBlocks(0) == 1 && MaskResetBlocks(1) == 1);  // the ticket is cleared
  MLF_EXPECT(MaskResetBlocks(256) == 1 && MaskResetBlocks(257) == 2);
  MLF_EXPECT(MaskResetBlocks(int64_t{1} << 50) == kMaxGrid);
}

/// Every chunk is looked at and written once, and no row is written before it was looked at.
void TestMaskSteps() {
  for (int64_t chunks : {1, 2, 5}) {
    for (int64_t rows : {0, 1, 2, 7}) {
      for (int64_t blocks : {1, 3, 396}) {
        const int64_t items = rows * chunks, lag = MaskLag(items, chunks, blocks);
        MLF_EXPECT(lag >= 0 && lag <= items);
        int64_t looked = 0, written = 0;
        for (int64_t ticket = 0; ticket < 2 * items; ++ticket) {
          const MaskStep step = MaskStepOf(ticket, items, lag);
          MLF_EXPECT(step.item == (step.writes ? written : looked));
          if (step.writes) MLF_EXPECT(looked >= (step.item / chunks + 1) * chunks);
          ++(step.writes ? written : looked);
        }
        MLF_EXPECT(looked == items && written == items);
      }
    }
  }
}

void TestSampling() {
  MLF_EXPECT(SurveyChunks(0) == 0 && SurveyChunks(1) == 1 && SurveyChunks(8192) == 1);
  MLF_EXPECT(SurveyChunks(8193) == 2 && SurveyGroups(8193) == 512);
  MLF_EXPECT(SurveyChunks(int64_t{1} << 40) == int64_t{1} << 27);
  ExpectDeals(PlaceBlocks, kChoiceThreads);
  ExpectDeals([](int64_t k) { return SortedTileBlocks(1, k); }, kSortedPlaces);
  ExpectDeals([](int64_t rows) { return SortedTileBlocks(rows, kSortedPlaces); }, 1);
  MLF_EXPECT(SortedTileBlocks(3, kSortedPlaces + 1) == 6 && SortedTileBlocks(0, 5) == 0);
  MLF_EXPECT(SortedTileBlocks(int64_t{1} << 40, kSortedPlaces + 1) == kMaxGrid);
  // Passes double the run that is sorted until it holds all.
  for (int64_t k : {1, 2047, 2048, 2049, 4096, 4097, 1 << 20, (1 << 20) + 1}) {
    const int passes = MergePasses(k);
    MLF_EXPECT(int64_t{kSortedPlaces} << passes >= k);
    MLF_EXPECT(passes == 0 || int64_t{kSortedPlaces} << (passes - 1) < k);
  }
}

/// Pieces are whole chunks that together have the row, none of a size that one less would do.
void TestArgmax() {
  MLF_EXPECT(ArgmaxSplits(0, 1 << 20, 132) == 128 && ArgmaxSplits(1, 0, 132) == 1);
  MLF_EXPECT(ArgmaxSplits(1, 8192, 132) == 1 && ArgmaxSplits(1, 8193, 132) == 2);
  MLF_EXPECT(ArgmaxSplits(1, int64_t{1} << 40, 132) == 4 * 132);
  MLF_EXPECT(ArgmaxSplits(4 * 132, 1 << 20, 132) == 1 && ArgmaxSplits(527, 1 << 20, 132) == 2);
  MLF_EXPECT(ArgmaxSplits(int64_t{1} << 40, 1 << 20, 132) == 1);
  for (int64_t n : {int64_t{8193}, int64_t{151936}, int64_t{1} << 40}) {
    for (int64_t splits : {2, 3, 19, 528}) {
      for (int64_t chunk : {1, 4096, 8192}) {
        const int64_t piece = ArgmaxPiece(n, splits, chunk);
        MLF_EXPECT(piece % chunk == 0 && piece * splits >= n && (piece - chunk) * splits < n);
      }
    }
  }
}

/// Sums of n weights of up to 2^bits stay below 2^62.
void TestWeightBits() {
  MLF_EXPECT(WeightBits(1) == 62 && WeightBits(2) == 61 && WeightBits(3) == 60);
  MLF_EXPECT(WeightBits(4) == 60 && WeightBits(5) == 59 && WeightBits(int64_t{1} << 62) == 0);
}

void TestPenalties() {
  for (int64_t seen : {1, 2, 3, 1000, 4096, 4097, 1 << 20}) {
    const int64_t slots = PenaltySlots(seen);
    MLF_EXPECT((slots & (slots - 1)) == 0 && slots >= 2 * seen && slots < 4 * seen);
  }
  MLF_EXPECT(PenaltySlots(kSharedSeen) * 8 == 64 << 10);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestGrids();
  mlf::TestNorm();
  mlf::TestKvAppend();
  mlf::TestMask();
  mlf::TestMaskSteps();
  mlf::TestSampling();
  mlf::TestArgmax();
  mlf::TestWeightBits();
  mlf::TestPenalties();
  return 0;
}
