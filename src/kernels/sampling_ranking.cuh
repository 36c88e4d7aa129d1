// The elements of one row of logits, best first, as far as a block asks on CUDA. Counterparts:
// ranking.h, sampling_survey.cuh.
#pragma once
#include "kernels/sampling_survey.cuh"

namespace mlf {

inline constexpr int kRankBins = 2048;

/// Shared memory of a ranking.
struct RankingMemory {
  struct Sorted {
    uint64_t rank[kSortedPlaces];
    double mass[kSortedPlaces];  // up to and with this place
  };
  struct Bins {
    unsigned count[kRankBins], low[kRankBins], high[kRankBins];  // of integer weights, in halves
  };
  union {
    Sorted sorted;
    Bins bins;
  };
  unsigned found;
};

// ---- what is asked of a ranking: the first place at which a sum is enough -----------------------

struct AtCount {
  int64_t k;
  __device__ bool operator()(int64_t count, double) const { return count >= k; }
};
struct ReachMass {
  double wanted;
  __device__ bool operator()(int64_t, double mass) const { return mass >= wanted; }
};
struct ExceedMass {
  double wanted;
  __device__ bool operator()(int64_t, double mass) const { return mass > wanted; }
};

/// Where one stands in the order.
struct CudaPlace {
  double mass;  // of the elements up to this one; the best one's weight is 1
  uint64_t rank;
};

/// Made by all threads of a block of kChoiceThreads, whose members all of them call together, with
/// the same arguments, for the same results. kWeighted: elements have softmax weights, and those of
/// -inf and NaN no place; else all elements have places and no weights.
template <typename T, bool kWeighted>
class CudaRanking {
 public:
  /// scale: log2(e) / temperature.
  __device__ CudaRanking(const SurveyedRow<T>& row, RankingMemory* memory, float max, float scale)
      : row_(row), memory_(memory), max_(max), scale_(scale) {}

  /// Sorts at least min(k, n) of the best, unless too many are equal; returns how many.
  __device__ int BuildPrefix(int64_t k) {
    const uint32_t floor = FloorOf(k);
    Clear();
    for (int64_t g = threadIdx.x; g < row_.groups(); g += kChoiceThreads) {
      if (KeyOf(row_.peaks[g]) > floor) continue;
      row_.ForGroup(g, [&](float value, int64_t id) {
        const uint64_t rank = RankOf(value, id);
        if (rank >> 32 <= floor) Keep(rank);
      });
    }
    complete_ = floor == kLastKey;
    sorted_ = SortKept();
    if (sorted_ == 0) complete_ = false;
    return sorted_;
  }

  /// Sorts the elements up to `last`, of which there are at most kSortedPlaces; returns how many.
  __device__ int Gather(uint64_t last) {
    GatherBetween(0, last);
    return sorted_ = SortKept();
  }

  /// A place of the prefix.
  __device__ uint64_t Rank(int i) const { return memory_->sorted.rank[i]; }

  /// The first place at which `enough`, or else the last one with a weight.
  template <typename Enough>
  __device__ CudaPlace Find(Enough enough) {
    CudaPlace place;
    if (sorted_ > 0 && (FindSorted(sorted_, 0, 0, enough, &place) || complete_)) return place;
    return Search(enough);
  }

 private:
  static constexpr uint32_t kLastKey = kWeighted ? kLowestKey : kNanKey;
  static constexpr float kWeightless = 87.34f;  // e to minus this is a float's least

  /// What a level of the search is about.
  struct Window {
    uint64_t first, last;  // ranks
    int64_t count;         // of the elements before it
    double mass;
  };

  __device__ float WeightOf(uint64_t rank) const {
    return kWeighted ? SoftmaxWeight(ValueOfRank(rank), max_, scale_) : 0.f;
  }

  /// A key that at least k elements reach, and not many more if all differ; the last one where
  /// the peaks tell nothing.
  __device__ uint32_t FloorOf(int64_t k) const {
    const int64_t groups = row_.groups(), enough = k + k / 8 + kWarp;
    if (k > groups) return kLastKey;
    uint32_t low = KeyOf(max_), high = kMinusInfKey;
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      int count = 0;
      for (int64_t g = threadIdx.x; g < groups; g += kChoiceThreads) {
        count += KeyOf(row_.peaks[g]) <= middle ? 1 : 0;
      }
      count = BlockReduce<kChoiceThreads>(count, SumOf());
      if (count >= k) {
        high = middle;
        if (count <= enough) break;
      } else {
        low = middle + 1;
      }
    }
    return high >= kMinusInfKey ? kLastKey : high;
  }

  __device__ void Clear() {
    __syncthreads();  // what lay there may still be read
    if (threadIdx.x == 0) memory_->found = 0;
    __syncthreads();
  }
  __device__ void Keep(uint64_t rank) {
    const unsigned at = atomicAdd(&memory_->found, 1u);
    if (at < kSortedPlaces) memory_->sorted.rank[at] = rank;
  }

  __device__ void GatherBetween(uint64_t first, uint64_t last) {
    Clear();
    row_.ForAll([&](float value, int64_t id) {
      const uint64_t rank = RankOf(value, id);
      if (rank >= first && rank <= last) Keep(rank);
    });
  }

  /// Sorts what was kept and sums its weights; 0 where it is too much.
  __device__ int SortKept() {
    __syncthreads();
    const auto count = static_cast<int>(min(memory_->found, kSortedPlaces + 1u));
    if (count == 0 || count > kSortedPlaces) return 0;
    BlockSort<kChoiceThreads>(memory_->sorted.rank, count);
    if (!kWeighted) return count;
    constexpr int kEach = kSortedPlaces / kChoiceThreads;
    const int first = static_cast<int>(threadIdx.x) * kEach;
    double sum = 0, total;
    for (int i = first; i < min(first + kEach, count); ++i) sum += WeightOf(Rank(i));
    double mass = BlockScan<kChoiceThreads>(sum, &total) - sum;
    for (int i = first; i < min(first + kEach, count); ++i) {
      memory_->sorted.mass[i] = mass += WeightOf(Rank(i));
    }
    __syncthreads();
    return count;
  }

  /// Among `count` sorted places, before which there are others. Returns whether it was enough.
  template <typename Enough>
  __device__ bool FindSorted(int count, int64_t before, double mass, Enough enough,
                             CudaPlace* place) const {
    int first = count, last = -1;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kChoiceThreads) {
      if (enough(before + i + 1, mass + MassAt(i))) first = min(first, i);
      if (WeightOf(Rank(i)) > 0) last = i;
    }
    first = BlockReduce<kChoiceThreads>(first, MinOf());
    last = BlockReduce<kChoiceThreads>(last, MaxOf());
    const bool found = first < count;
    const int at = found ? first : last < 0 ? count - 1 : last;
    *place = {mass + MassAt(found ? at : count - 1), Rank(at)};
    return found;
  }
  __device__ double MassAt(int i) const { return kWeighted ? memory_->sorted.mass[i] : 0; }

  // ---- search through all of the row: ever finer histograms, then a sort ------------------------

  /// Bins of the first level are equal ranges of values, which spreads elements far better than
  /// bins of their bits do, where many are alike and threads would wait for each other.
  struct ValueBins {
    float max, inverse;
    __device__ int operator()(float value) const {
      const float bin = (max - value) * inverse;
      return bin < kRankBins - 1 ? static_cast<int>(bin) : kRankBins - 1;  // that of NaN too
    }
    /// The first key from `low` to `high` whose bin is not below `bin`, `high` + 1 if there is
    /// none.
    __device__ uint64_t FirstKey(uint64_t low, uint64_t high, int bin) const {
      for (++high; low < high;) {
        const uint64_t middle = low + (high - low) / 2;
        if ((*this)(ValueOf(static_cast<uint32_t>(middle))) >= bin) {
          high = middle;
        } else {
          low = middle + 1;
        }
      }
      return low;
    }
  };

  /// Bins of the further levels are ranges of ranks.
  struct RankBins {
    uint64_t first;
    int shift;
    __device__ int operator()(uint64_t rank) const {
      return static_cast<int>((rank - first) >> shift);
    }
  };

  __device__ ValueBins FirstBins() const {
    float least = max_;
    for (int64_t g = threadIdx.x; g < row_.groups(); g += kChoiceThreads) {
      const float peak = row_.peaks[g];
      if (peak > -INFINITY) least = fminf(least, peak);
    }
    least = BlockReduce<kChoiceThreads>(least, MinOf());
    // Half of the elements lie below the middle of the peaks of 32, about as far again.
    float range = 3 * (max_ - least);
    if (kWeighted) range = fminf(range, kWeightless * kLog2E / scale_);
    return {max_, kRankBins / range};
  }

  template <typename BinOf>
  __device__ void FillBins(const Window& window, BinOf bin_of) const {
    RankingMemory::Bins& bins = memory_->bins;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kRankBins; i += kChoiceThreads) {
      bins.count[i] = bins.low[i] = bins.high[i] = 0;
    }
    __syncthreads();
    const float unit = exp2f(static_cast<float>(WeightBits(row_.n)));
    row_.ForAll([&](float value, int64_t id) {
      const uint64_t rank = RankOf(value, id);
      if (rank < window.first || rank > window.last) return;
      const int bin = bin_of(value, rank);
      atomicAdd(&bins.count[bin], 1u);
      if constexpr (kWeighted) {
        const auto weight = static_cast<uint64_t>(SoftmaxWeight(value, max_, scale_) * unit);
        const auto low = static_cast<unsigned>(weight);
        const unsigned before = atomicAdd(&bins.low[bin], low);
        const unsigned high = static_cast<unsigned>(weight >> 32) + (before + low < before ? 1 : 0);
        if (high != 0) atomicAdd(&bins.high[bin], high);
      }
    });
    __syncthreads();
  }

  /// The bin of the first place at which `enough`, or the last one with a weight (elements, where
  /// there are no weights); *window becomes what lies before it. Returns the bin and its count.
  template <typename Enough>
  __device__ int ChooseBin(Window* window, Enough enough, int64_t* in_bin) const {
    constexpr int kEach = kRankBins / kChoiceThreads;
    const RankingMemory::Bins& bins = memory_->bins;
    const int begin = static_cast<int>(threadIdx.x) * kEach;
    const double unit = exp2(-static_cast<double>(WeightBits(row_.n)));
    long long count = 0, all_counts;
    unsigned long long mass = 0, all_masses;
    for (int i = begin; i < begin + kEach; ++i) {
      count += bins.count[i];
      mass += MassOf(bins, i);
    }
    count = BlockScan<kChoiceThreads>(count, &all_counts) - count;
    mass = BlockScan<kChoiceThreads>(mass, &all_masses) - mass;
    int first = kRankBins, last = -1;
    for (int i = begin; i < begin + kEach; ++i) {
      if (kWeighted ? MassOf(bins, i) > 0 : bins.count[i] > 0) last = i;
      count += bins.count[i];
      mass += MassOf(bins, i);
      const double sum = window->mass + static_cast<double>(mass) * unit;
      if (first == kRankBins && bins.count[i] > 0 && enough(window->count + count, sum)) first = i;
    }
    first = BlockReduce<kChoiceThreads>(first, MinOf());
    last = BlockReduce<kChoiceThreads>(last, MaxOf());
    const int bin = first < kRankBins ? first : max(last, 0);
    // Sums before the bin, from the one thread that has them.
    const bool own = bin >= begin && bin < begin + kEach;
    for (int i = begin + kEach - 1; own && i >= bin; --i) {
      count -= bins.count[i];
      mass -= MassOf(bins, i);
    }
    window->count += BlockReduce<kChoiceThreads>(own ? count : 0, SumOf());
    mass = BlockReduce<kChoiceThreads>(own ? mass : 0, SumOf());
    window->mass += static_cast<double>(mass) * unit;
    *in_bin = bins.count[bin];
    return bin;
  }
  __device__ static unsigned long long MassOf(const RankingMemory::Bins& bins, int i) {
    return static_cast<unsigned long long>(bins.high[i]) << 32 | bins.low[i];
  }

  template <typename Enough>
  __device__ CudaPlace Search(Enough enough) {
    sorted_ = 0;  // the memory is needed
    Window window{0, uint64_t{kLastKey} << 32 | UINT32_MAX, 0, 0};
    const ValueBins values = FirstBins();
    FillBins(window, [&](float value, uint64_t) { return values(value); });
    int64_t count;
    int bin = ChooseBin(&window, enough, &count);
    const uint64_t first = values.FirstKey(kInfKey, kLastKey, bin),
                   end = values.FirstKey(kInfKey, kLastKey, bin + 1);
    window.first = first << 32;
    window.last = (end << 32) - 1;
    while (count > kSortedPlaces) {
      RankBins ranks{window.first, 0};
      while ((window.last - window.first) >> ranks.shift >= kRankBins) ++ranks.shift;
      FillBins(window, [&](float, uint64_t rank) { return ranks(rank); });
      bin = ChooseBin(&window, enough, &count);
      window.first += static_cast<uint64_t>(bin) << ranks.shift;
      window.last = min(window.last, window.first + ((uint64_t{1} << ranks.shift) - 1));
    }
    GatherBetween(window.first, window.last);
    CudaPlace place;
    FindSorted(SortKept(), window.count, window.mass, enough, &place);
    return place;
  }

  SurveyedRow<T> row_;
  RankingMemory* memory_;
  float max_, scale_;
  int sorted_ = 0;
  bool complete_ = false;  // the prefix holds all
};

}  // namespace mlf
