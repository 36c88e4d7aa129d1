// Beam search and best-of as pure logic. Counterpart: beam_search.h.
#include "runtime/beam_search.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace mlf {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

template <typename T>
void Require(bool ok, const char* name, T value, const char* expected) {
  if (!ok) {
    TVM_FFI_THROW(ValueError) << "beam search: " << name << " is " << value << ", expected "
                              << expected;
  }
}

/// A beam that goes on with one of its candidates.
struct Continuation {
  int32_t parent;
  TokenLogprob next;
  double sum;
};

}  // namespace

void BeamOptions::Check() const {
  Require(width >= 1 && width <= kMaxBeamWidth, "width", width, "1 to 16 beams");
  Require(max_tokens >= 1 && max_tokens <= INT32_MAX, "max_tokens", max_tokens, "a count >= 1");
  Require(std::isfinite(length_penalty), "length_penalty", length_penalty, "a finite number");
  const auto early = static_cast<int32_t>(early_stopping);
  Require(early >= 0 && early <= 2, "early_stopping", early, "0, 1 or 2");
}

BeamSearch::BeamSearch(BeamOptions options) : options_(std::move(options)) {
  options_.Check();
  std::vector<int32_t>& ends = options_.end_ids;
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  beams_.push_back({-1, 0});
}

int64_t BeamSearch::candidates_per_beam() const {
  const auto ends = static_cast<int64_t>(options_.end_ids.size());
  return options_.width + std::max(options_.width, ends);
}

double BeamSearch::Score(double sum, int64_t length) const {
  return sum / std::pow(static_cast<double>(length), options_.length_penalty);
}

void BeamSearch::Keep(const Beam& beam, int64_t length, bool ended) {
  const Finished entry{beam, Score(beam.sum, length), ended};
  const auto worse = [](const Finished& a, const Finished& b) { return a.score > b.score; };
  finished_.insert(std::upper_bound(finished_.begin(), finished_.end(), entry, worse), entry);
  if (static_cast<int64_t>(finished_.size()) > options_.width) finished_.pop_back();
}

/// Whether a running beam may still be better than the worst that is kept. Sums only fall.
bool BeamSearch::CanImprove() const {
  if (static_cast<int64_t>(finished_.size()) < options_.width) return true;
  if (options_.early_stopping == EarlyStopping::kFirst) return false;
  double best = -kInf;
  for (const Beam& beam : beams_) best = std::max(best, beam.sum);
  const bool grows =
      options_.early_stopping == EarlyStopping::kNever && options_.length_penalty > 0;
  return Score(best, grows ? options_.max_tokens : length_) > finished_.back().score;
}

std::vector<BeamStep> BeamSearch::Advance(
    std::span<const std::span<const TokenLogprob>> candidates) {
  if (done_) return {};
  Require(candidates.size() == beams_.size(), "the number of lists", candidates.size(),
          "one for each running beam");
  std::vector<Continuation> all;
  for (size_t b = 0; b < candidates.size(); ++b) {
    for (const TokenLogprob& next : candidates[b]) {
      if (!(next.logprob > -kInf)) continue;
      all.push_back({static_cast<int32_t>(b), next, beams_[b].sum + next.logprob});
    }
  }
  // Stable: of equals the better parent's better candidate.
  std::stable_sort(all.begin(), all.end(),
                   [](const Continuation& a, const Continuation& b) { return a.sum > b.sum; });
  ++length_;
  const bool last = length_ == options_.max_tokens;
  std::vector<Beam> running;
  std::vector<BeamStep> steps;
  const auto width = static_cast<size_t>(options_.width);
  for (size_t rank = 0; rank < all.size() && running.size() < width; ++rank) {
    const auto& [parent, next, sum] = all[rank];
    const auto& ends = options_.end_ids;
    const bool ended = std::binary_search(ends.begin(), ends.end(), next.token);
    // One that ends outside of the best `width` would not have run on either.
    if (ended && rank >= width) continue;
    nodes_.push_back({beams_[parent].node, next.token, next.logprob});
    const Beam beam{static_cast<int32_t>(nodes_.size()) - 1, sum};
    if (ended || last) {
      Keep(beam, length_, ended);
      continue;
    }
    running.push_back(beam);
    steps.push_back({parent, next.token});
  }
  beams_ = std::move(running);
  if (beams_.empty() || !CanImprove()) Stop();
  return done_ ? std::vector<BeamStep>() : steps;
}

void BeamSearch::Stop() {
  done_ = true;
  beams_.clear();
}

void BeamSearch::Finish() {
  if (length_ > 0) {
    for (const Beam& beam : beams_) Keep(beam, length_, false);
  }
  Stop();
}

BeamHypothesis BeamSearch::Unroll(const Beam& beam, double score, bool ended) const {
  BeamHypothesis out;
  for (int32_t node = beam.node; node >= 0; node = nodes_[node].parent) {
    out.tokens.push_back(nodes_[node].token);
    out.logprobs.push_back(nodes_[node].logprob);
  }
  std::reverse(out.tokens.begin(), out.tokens.end());
  std::reverse(out.logprobs.begin(), out.logprobs.end());
  out.sum = beam.sum;
  out.score = score;
  out.ended = ended;
  return out;
}

std::vector<BeamHypothesis> BeamSearch::Best(int64_t n) const {
  std::vector<BeamHypothesis> best;
  for (const Finished& entry : finished_) {
    if (static_cast<int64_t>(best.size()) >= n) break;
    best.push_back(Unroll(entry.beam, entry.score, entry.ended));
  }
  return best;
}

BeamHypothesis BeamSearch::Running(int64_t b) const {
  if (b < 0 || b >= n_beams()) {
    TVM_FFI_THROW(IndexError) << "beam search: beam " << b << " of " << n_beams()
                              << " is asked for";
  }
  const Beam& beam = beams_[b];
  return Unroll(beam, length_ == 0 ? 0 : Score(beam.sum, length_), false);
}

std::vector<int32_t> RankByMeanLogprob(std::span<const SequenceScore> sequences) {
  const auto mean = [&](int32_t i) {
    const SequenceScore& s = sequences[i];
    const double value = s.logprob_sum / static_cast<double>(s.n_tokens);
    return s.n_tokens <= 0 || std::isnan(value) ? -kInf : value;
  };
  std::vector<int32_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return mean(a) > mean(b); });
  return order;
}

}  // namespace mlf
