// The tokens of one row of logits, best first, as far as anybody asks. Counterparts: ranking.h,
// sampling_simd.cc.
#include "kernels/ranking.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

namespace mlf {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kLowestFinite = std::numeric_limits<float>::lowest();
constexpr int64_t kGroups = 2048;  // maxima of a row: enough above the prefixes asked for
constexpr int64_t kMaxStretch = GroupPeaks::kMaxStretch;
constexpr int64_t kMaxGroup = kMaxStretch / kGroupLanes;
constexpr int64_t kMaxPrefix = 1024;  // places that are sorted before a histogram is worth it
constexpr size_t kSorted = 64;        // entries that are sorted rather than halved

// Keys of a bin's ends; beyond these lie NaN and -inf.
constexpr uint32_t kInfKey = 0x007FFFFF, kLowestKey = 0xFF7FFFFF, kMinusZeroKey = 0x80000000;
constexpr int64_t kFirstBin = kInfKey >> kBinShift, kLastBin = kLowestKey >> kBinShift;

/// Falling with the value; 0 and -0 are one.
uint32_t KeyOf(float value) {
  const auto bits = std::bit_cast<int32_t>(value + 0.f);
  return 0x7FFFFFFFu - static_cast<uint32_t>(bits ^ ((bits >> 31) & 0x7FFFFFFF));
}

float ValueOf(uint32_t key) {
  const auto rising = static_cast<int32_t>(0x7FFFFFFFu - key);
  return std::bit_cast<float>(rising ^ ((rising >> 31) & 0x7FFFFFFF));
}

}  // namespace

uint64_t RankOf(float value, int32_t id) {
  const uint32_t key = std::isnan(value) ? UINT32_MAX : KeyOf(value);
  return uint64_t{key} << 32 | static_cast<uint32_t>(id);
}

// ---- GroupPeaks ---------------------------------------------------------------------------------

GroupPeaks::GroupPeaks(const float* x, int64_t n) : x_(x), n_(n) {
  const int64_t group = std::clamp<int64_t>((n + kGroups - 1) / kGroups, 1, kMaxGroup);
  stretch_ = kGroupLanes * group;
  maxima_.resize((n + stretch_ - 1) / stretch_ * kGroupLanes);
  group_maxima(maxima_.data(), x, n, group);
  max_ = maxima_[argmax_row(maxima_.data(), static_cast<int64_t>(maxima_.size()))];
}

float GroupPeaks::StretchMax(int64_t stretch) const {
  const float* first = maxima_.data() + stretch * kGroupLanes;
  return *std::max_element(first, first + kGroupLanes);
}

int32_t GroupPeaks::Best() const {
  int64_t c = 0;
  while (StretchMax(c) != max_) ++c;
  return static_cast<int32_t>(c * stretch_ +
                              argmax_row(x_ + c * stretch_, std::min(stretch_, n_ - c * stretch_)));
}

float GroupPeaks::FloorOf(int64_t k) const {
  const auto groups = static_cast<int64_t>(maxima_.size());
  return k > groups ? -kInf : kth_largest(maxima_.data(), groups, k);
}

namespace {

/// What is not below `floor`.
void GatherRanks(const float* x, const GroupPeaks& peaks, float floor,
                 std::vector<uint64_t>* ranks) {
  int32_t ids[kMaxStretch];
  peaks.ForStretchesAbove(floor, [&](int64_t begin, int64_t count) {
    const int64_t found = gather_between(ids, x + begin, count, floor, kInf);
    for (int64_t i = 0; i < found; ++i) {
      ranks->push_back(RankOf(x[begin + ids[i]], static_cast<int32_t>(begin + ids[i])));
    }
  });
}

/// The k best and some more, told by the first bits of their keys.
void RanksDownTo(const float* x, int64_t n, int64_t k, std::vector<uint64_t>* ranks) {
  constexpr int kShift = 32 + kBinShift;
  int64_t counts[kBins] = {};
  ranks->resize(n);
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t rank = (*ranks)[i] = RankOf(x[i], static_cast<int32_t>(i));
    ++counts[rank >> kShift];
  }
  uint64_t last = 0;
  for (int64_t sum = counts[0]; sum < k; sum += counts[last]) ++last;
  std::erase_if(*ranks, [=](uint64_t rank) { return rank >> kShift > last; });
}

/// Sorts ranks whose ids rise already: by their keys alone, 11 bits at a time, the lowest first.
void SortRanks(std::vector<uint64_t>* ranks) {
  constexpr int kDigitBits = 11;
  constexpr uint64_t kDigits = uint64_t{1} << kDigitBits;
  std::vector<uint64_t> other(ranks->size());
  for (int shift = 32; shift < 64; shift += kDigitBits) {
    size_t begin[kDigits] = {};
    for (const uint64_t rank : *ranks) ++begin[rank >> shift & (kDigits - 1)];
    size_t sum = 0;
    for (size_t& digit : begin) sum += std::exchange(digit, sum);
    for (const uint64_t rank : *ranks) other[begin[rank >> shift & (kDigits - 1)]++] = rank;
    ranks->swap(other);
  }
}

}  // namespace

void TopRanks(const float* x, int64_t n, int64_t k, std::vector<uint64_t>* ranks) {
  ranks->clear();
  k = std::min(k, n);
  if (k <= 0) return;
  if (k <= kMaxPrefix) {
    const GroupPeaks peaks(x, n);
    if (const float floor = peaks.FloorOf(k); floor > -kInf) {
      GatherRanks(x, peaks, floor, ranks);
      const auto end = ranks->begin() + k;
      if (end != ranks->end()) std::nth_element(ranks->begin(), end, ranks->end());
      ranks->resize(k);
      std::sort(ranks->begin(), ranks->end());
      return;
    }
  }
  RanksDownTo(x, n, k, ranks);
  SortRanks(ranks);
  ranks->resize(k);
}

double MassOf(const float* x, int64_t n, float max, float temperature, float least,
              RowBlocks blocks) {
  std::vector<double> masses(RowBlockCount(n));
  blocks.For(n, [&](int64_t b, int64_t begin, int64_t count) {
    masses[b] = softmax_mass(x + begin, count, max, 1 / temperature, least);
  });
  double sum = 0;
  for (const double mass : masses) sum += mass;
  return sum;
}

// ---- Ranking ------------------------------------------------------------------------------------

Ranking::Ranking(const float* x, int64_t n, const GroupPeaks& peaks, float temperature,
                 int64_t expected, RowBlocks blocks)
    : x_(x), n_(n), peaks_(peaks), max_(peaks.max()), temperature_(temperature), blocks_(blocks) {
  BuildPrefix(std::min(expected, kMaxPrefix));
}

void Ranking::Gather(int64_t begin, int64_t count, float low, float high,
                     std::vector<Entry>* out) const {
  int32_t ids[kMaxStretch];
  float values[kMaxStretch], weights[kMaxStretch];
  for (const int64_t end = begin + count; begin < end; begin += kMaxStretch) {
    const int64_t found =
        gather_between(ids, x_ + begin, std::min(kMaxStretch, end - begin), low, high);
    for (int64_t i = 0; i < found; ++i) values[i] = x_[begin + ids[i]];
    softmax_weights(weights, values, found, max_, 1 / temperature_);
    for (int64_t i = 0; i < found; ++i) {
      out->push_back({RankOf(values[i], static_cast<int32_t>(begin + ids[i])), weights[i]});
    }
  }
}

void Ranking::BuildPrefix(int64_t wanted) {
  const float floor = peaks_.FloorOf(wanted);
  complete_ = !(floor > -kInf);
  const float low = std::max(floor, kLowestFinite);
  peaks_.ForStretchesAbove(
      low, [&](int64_t begin, int64_t count) { Gather(begin, count, low, kInf, &prefix_); });
  if (constexpr size_t kMost = 4 * kMaxPrefix; prefix_.size() > kMost) {  // equals at the floor
    std::nth_element(prefix_.begin(), prefix_.begin() + kMost, prefix_.end());
    prefix_.resize(kMost);
    complete_ = false;
  }
  std::sort(prefix_.begin(), prefix_.end());
}

void Ranking::BuildBins() {
  if (!bins_.empty()) return;
  std::vector<MassBin> by_block(RowBlockCount(n_) * kBins);
  blocks_.For(n_, [&](int64_t b, int64_t begin, int64_t count) {
    add_to_bins(by_block.data() + b * kBins, x_ + begin, count, max_, 1 / temperature_);
  });
  bins_.assign(kBins, {0, 0});
  for (size_t i = 0; i < by_block.size(); ++i) {
    bins_[i % kBins].mass += by_block[i].mass;
    bins_[i % kBins].count += by_block[i].count;
  }
}

std::vector<Ranking::Entry> Ranking::EntriesOf(int64_t bin) const {
  const uint32_t first = static_cast<uint32_t>(bin) << kBinShift,
                 last = first | ((uint32_t{1} << kBinShift) - 1);
  // A comparison with -0 would let 0 in, which is of the bin before.
  const float high = ValueOf(first == kMinusZeroKey ? first + 1 : std::max(first, kInfKey));
  std::vector<Entry> entries;
  entries.reserve(bins_[bin].count);
  Gather(0, n_, ValueOf(last), high, &entries);
  return entries;
}

Ranking::Place Ranking::PlaceOf(const Entry& entry, double mass) const {
  const int32_t id = IdOf(entry.rank);
  return {mass, x_[id], id};
}

Ranking::Place Ranking::At(int64_t k) {
  double mass = 0;
  const auto sorted = static_cast<int64_t>(prefix_.size());
  if (k <= sorted || complete_) {
    const int64_t end = std::min(k, sorted);
    for (int64_t i = 0; i < end; ++i) mass += prefix_[i].weight;
    return PlaceOf(prefix_[end - 1], mass);
  }
  BuildBins();
  int64_t bin = kFirstBin, last = kFirstBin;
  for (; bin <= kLastBin && k > bins_[bin].count; ++bin) {
    if (bins_[bin].count > 0) last = bin;
    k -= bins_[bin].count;
    mass += bins_[bin].mass;
  }
  if (bin > kLastBin) {  // fewer than k: all of them
    mass -= bins_[last].mass;
    k = bins_[last].count;
    bin = last;
  }
  std::vector<Entry> entries = EntriesOf(bin);
  const auto end = entries.begin() + k;
  std::nth_element(entries.begin(), end - 1, entries.end());
  for (auto entry = entries.begin(); entry != end; ++entry) mass += entry->weight;
  return PlaceOf(*(end - 1), mass);
}

template <typename Enough>
Ranking::Place Ranking::Find(Enough enough) {
  double mass = 0;
  const Entry* last = &prefix_.front();
  for (const Entry& entry : prefix_) {
    mass += entry.weight;
    if (entry.weight > 0) last = &entry;
    if (enough(mass)) return PlaceOf(entry, mass);
  }
  if (complete_) return PlaceOf(*last, mass);
  BuildBins();
  mass = 0;
  double before = 0;
  int64_t found = kFirstBin;
  for (int64_t bin = kFirstBin; bin <= kLastBin; ++bin) {
    if (bins_[bin].mass <= 0) continue;
    found = bin;
    before = mass;
    mass += bins_[bin].mass;
    if (enough(mass)) break;
  }
  return FindIn(EntriesOf(found), before, enough);
}

template <typename Enough>
Ranking::Place Ranking::FindIn(std::vector<Entry> entries, double before, Enough enough) const {
  auto begin = entries.begin(), end = entries.end();
  while (end - begin > static_cast<int64_t>(kSorted)) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end);
    double mass = before;
    for (auto entry = begin; entry != middle; ++entry) mass += entry->weight;
    if (enough(mass)) {
      end = middle;
    } else {
      before = mass;
      begin = middle;
    }
  }
  std::sort(begin, end);
  auto last = begin;
  for (auto entry = begin; entry != end; ++entry) {
    before += entry->weight;
    if (entry->weight > 0) last = entry;
    if (enough(before)) return PlaceOf(*entry, before);
  }
  return PlaceOf(*last, before);
}

Ranking::Place Ranking::Reach(double mass) {
  return Find([=](double sum) { return sum >= mass; });
}
Ranking::Place Ranking::Exceed(double mass) {
  return Find([=](double sum) { return sum > mass; });
}

}  // namespace mlf
