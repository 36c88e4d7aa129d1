// Beam search and best-of as pure logic: which sequences go on, which are done, which are best.
// Counterpart: beam_search.cc.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/batch_sampler.h"

namespace mlf {

inline constexpr int64_t kMaxBeamWidth = 16;

/// When a search ends before its last step.
enum class EarlyStopping : int32_t {
  kHeuristic = 0,  // `width` are finished, and no running one is better at its present length
  kFirst = 1,      // `width` are finished
  kNever = 2,      // `width` are finished, and no running one can become better at any length
};

struct BeamOptions {
  int64_t width = 1;          // beams that run at once, 1 .. kMaxBeamWidth
  int64_t max_tokens = 1;     // a beam of as many tokens is finished
  double length_penalty = 1;  // score = sum of logprobs / (tokens, the last one too)^length_penalty
  EarlyStopping early_stopping = EarlyStopping::kHeuristic;
  std::vector<int32_t> end_ids;  // tokens that finish a beam

  /// ValueError naming the field.
  void Check() const;
};

/// One of `beams` goes on with a token; several may have the same parent.
struct BeamStep {
  int32_t parent;  // index into the beams of the step before
  int32_t token;
};

struct BeamHypothesis {
  std::vector<int32_t> tokens;  // with the end token, where that finished it
  std::vector<float> logprobs;  // of each
  double sum = 0, score = 0;    // of logprobs; after the length penalty
  bool ended = false;           // by an end token, not by its length
};

/// One search: the first Advance has one beam, the prompt.
class BeamSearch {
 public:
  explicit BeamSearch(BeamOptions options);

  /// How many best tokens of each beam Advance wants: enough for `width` that do not end.
  int64_t candidates_per_beam() const;
  int64_t n_beams() const { return static_cast<int64_t>(beams_.size()); }

  /// candidates[b]: of beam b, the best first. The beams of the next step, the best first; none
  /// when the search is done. ValueError unless there is one list for each beam.
  std::vector<BeamStep> Advance(std::span<const std::span<const TokenLogprob>> candidates);

  /// Nothing is left to run, or nothing that runs can matter.
  bool Done() const { return done_; }
  /// Ends the search now: what runs counts as finished by length.
  void Finish();
  /// At most n finished ones, the best first; of equals the one that finished first.
  std::vector<BeamHypothesis> Best(int64_t n) const;
  /// Of the beam that runs now as number b, as far as it has come.
  BeamHypothesis Running(int64_t b) const;

 private:
  struct Node {  // a token and what came before it
    int32_t parent, token;
    float logprob;
  };
  struct Beam {
    int32_t node;  // -1: the prompt
    double sum;
  };
  struct Finished {
    Beam beam;
    double score;
    bool ended;
  };

  double Score(double sum, int64_t length) const;
  void Keep(const Beam& beam, int64_t length, bool ended);
  void Stop();
  bool CanImprove() const;
  BeamHypothesis Unroll(const Beam& beam, double score, bool ended) const;

  BeamOptions options_;
  std::vector<Node> nodes_;
  std::vector<Beam> beams_;
  std::vector<Finished> finished_;  // at most `width`, the best first
  int64_t length_ = 0;              // tokens of each running beam
  bool done_ = false;
};

/// A finished sequence, for best-of.
struct SequenceScore {
  double logprob_sum;
  int64_t n_tokens;
};
/// Indices by falling mean log-probability; of equals the lower one, and sequences without tokens
/// last.
std::vector<int32_t> RankByMeanLogprob(std::span<const SequenceScore> sequences);

}  // namespace mlf
