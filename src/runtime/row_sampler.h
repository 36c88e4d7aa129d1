// One output row, from logits to a token. Counterparts: row_sampler.cc, batch_sampler.h (many).
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/logit_mask_simd.h"
#include "kernels/ranking.h"
#include "kernels/row_blocks.h"
#include "runtime/batch_sampler.h"

namespace mlf {

/// Goes through the stages of one row, which it changes in place.
class RowSampler {
 public:
  /// x[n]; n > 0.
  RowSampler(float* x, int64_t n, RowBlocks blocks) : x_(x), n_(n), blocks_(blocks) {}

  /// Fills `out`, with an error text where there is no token. ValueError for a bad override.
  void Run(const RowInput& in, RowOutput* out);

 private:
  struct Extremes {
    bool has_nan;
    float any, allowed;  // the largest; -inf where there is none
    int64_t block;       // the first that holds the largest allowed one
  };
  Extremes FindExtremes(const int32_t* bitmask);

  /// Before anything is changed.
  bool ReadLogprobs(const RowInput& in, RowOutput* out);
  /// Of log_softmax of the logits as they came.
  float RawLogprob(int32_t token) const;

  void Edit(int32_t token, double logit);
  void ApplyPenalties(const SamplingParams& params, std::span<const int32_t> history);
  void ApplyEdits(const RowInput& in);

  float MaskFraction(const int32_t* bitmask, float max, double temperature) const;
  int32_t First(const int32_t* bitmask, const Extremes& extremes) const;
  void ListCandidates(int64_t count, float max, double temperature, RowOutput* out);

  /// The token, or the best ones for beams.
  void Choose(const RowInput& in, RowOutput* out);
  int32_t Draw(const RowInput& in, float max, double temperature, double min_p);
  Candidates Gather(const GroupPeaks& peaks, float low, float high) const;
  Candidates GatherAll() const;
  int32_t DrawRanked(const GroupPeaks& peaks, const SamplingParams& params, double temperature,
                     double min_p, double uniform);
  int32_t AmongEquals(const GroupPeaks& peaks, const Ranking::Place& place,
                      double temperature) const;

  float* x_;
  int64_t n_;
  RowBlocks blocks_;
  float raw_max_ = 0;
  double raw_log_mass_ = 0;
  std::vector<std::pair<int32_t, float>> edited_;  // tokens and their logits before
};

}  // namespace mlf
