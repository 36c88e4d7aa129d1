// The tokens of one row of logits, best first, as far as anybody asks. Counterpart: ranking.cc.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/row_blocks.h"
#include "kernels/sampling_simd.h"

namespace mlf {

/// Orders as integers: a larger value first, of equals (0 and -0 too) a lower id. NaN comes last.
uint64_t RankOf(float value, int32_t id);
inline int32_t IdOf(uint64_t rank) { return static_cast<int32_t>(rank & 0xFFFFFFFF); }

/// Largest elements of groups of a row: what is not below the k-th largest of them holds the k best
/// elements, and little else.
class GroupPeaks {
 public:
  static constexpr int64_t kMaxStretch = 1024;  // elements

  /// x[n]; n > 0.
  GroupPeaks(const float* x, int64_t n);

  float max() const { return max_; }
  /// The lowest id of the maximum.
  int32_t Best() const;
  /// Something that at least min(k, n) elements are not below, if none is NaN; -inf where nothing
  /// better is known.
  float FloorOf(int64_t k) const;
  /// fn(begin, count) for the stretches of the row, of at most kMaxStretch elements, that hold some
  /// of `floor` or more, in order.
  template <typename Fn>
  void ForStretchesAbove(float floor, Fn fn) const {
    for (int64_t c = 0; c * stretch_ < n_; ++c) {
      if (StretchMax(c) >= floor) fn(c * stretch_, std::min(stretch_, n_ - c * stretch_));
    }
  }

 private:
  float StretchMax(int64_t stretch) const;

  const float* x_;
  int64_t n_, stretch_;
  std::vector<float> maxima_;
  float max_;
};

/// Ranks of the k best of x[n], best first; of all of them where there are fewer; n > 0.
void TopRanks(const float* x, int64_t n, int64_t k, std::vector<uint64_t>* ranks);

/// Sum of the weights exp((x - max) / temperature) of the elements of `least` or more.
double MassOf(const float* x, int64_t n, float max, float temperature, float least,
              RowBlocks blocks);

/// Softmax weights of a row at a temperature, and their sums from the best token down. A prefix is
/// sorted; beyond it a histogram over the bits of the logits finds the few to sort. Tokens of -inf
/// and NaN have no place.
class Ranking {
 public:
  /// Where one stands in the order.
  struct Place {
    double mass;  // of the tokens up to this one; the best one's weight is 1
    float logit;
    int32_t id;
  };

  /// x[n] with a maximum above -inf; `expected`: how many places will probably be asked for.
  Ranking(const float* x, int64_t n, const GroupPeaks& peaks, float temperature, int64_t expected,
          RowBlocks blocks);

  /// Of the tokens of `least` or more.
  double Mass(float least) const { return MassOf(x_, n_, max_, temperature_, least, blocks_); }
  /// The k-th place, or the last one.
  Place At(int64_t k);
  /// The first place whose mass is not below `mass`, or is above it; else the last one.
  Place Reach(double mass);
  Place Exceed(double mass);

 private:
  struct Entry {
    uint64_t rank;
    float weight;
    bool operator<(const Entry& other) const { return rank < other.rank; }
  };

  void BuildPrefix(int64_t wanted);
  void BuildBins();
  void Gather(int64_t begin, int64_t count, float low, float high, std::vector<Entry>* out) const;
  std::vector<Entry> EntriesOf(int64_t bin) const;
  template <typename Enough>
  Place Find(Enough enough);
  template <typename Enough>
  Place FindIn(std::vector<Entry> entries, double before, Enough enough) const;
  Place PlaceOf(const Entry& entry, double mass) const;

  const float* x_;
  int64_t n_;
  const GroupPeaks& peaks_;
  float max_, temperature_;
  RowBlocks blocks_;
  std::vector<Entry> prefix_;
  bool complete_ = false;  // the prefix holds all
  std::vector<MassBin> bins_;
};

}  // namespace mlf
