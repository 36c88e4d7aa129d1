// Tests of src/runtime/beam_search: against all sequences there are, against a search that copies
// whole sequences, the ways to stop, best-of.
#include "runtime/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "check.h"

namespace mlf {
namespace {

constexpr float kInfF = std::numeric_limits<float>::infinity();
using Ids = std::vector<int32_t>;

/// A language of a few tokens: log-probabilities of what follows a text, by a hash of the text.
class Language {
 public:
  Language(int32_t n_vocab, uint64_t seed) : n_vocab_(n_vocab), seed_(seed) {}

  std::vector<float> After(const Ids& text) const {
    uint64_t hash = seed_;
    for (const int32_t token : text) hash = RandomBits(hash, token);
    std::vector<float> weights;
    float sum = 0;
    for (int32_t i = 0; i < n_vocab_; ++i) {
      weights.push_back(static_cast<float>(std::exp(4 * RandomUniform(hash, i))));
      sum += weights.back();
    }
    for (float& w : weights) w = std::log(w / sum);
    return weights;
  }

  std::vector<TokenLogprob> Best(const Ids& text, int64_t n) const {
    const std::vector<float> logprobs = After(text);
    std::vector<TokenLogprob> best;
    for (int32_t i = 0; i < n_vocab_; ++i) best.push_back({i, logprobs[i]});
    std::stable_sort(best.begin(), best.end(),
                     [](const auto& a, const auto& b) { return a.logprob > b.logprob; });
    best.erase(best.begin() + std::min<int64_t>(n_vocab_, n), best.end());
    return best;
  }

  int32_t n_vocab() const { return n_vocab_; }

 private:
  int32_t n_vocab_;
  uint64_t seed_;
};

/// Runs a search to its end as an engine does: texts of beams are copied from their parents.
std::vector<BeamHypothesis> Run(const Language& language, const BeamOptions& options, int64_t n,
                                int64_t* steps_taken = nullptr) {
  BeamSearch search(options);
  std::vector<Ids> texts(1);
  int64_t steps = 0;
  for (; !search.Done(); ++steps) {
    MLF_EXPECT(steps < options.max_tokens);
    std::vector<std::vector<TokenLogprob>> lists;
    for (const Ids& text : texts) {
      lists.push_back(language.Best(text, search.candidates_per_beam()));
    }
    const std::vector<std::span<const TokenLogprob>> views(lists.begin(), lists.end());
    std::vector<Ids> next;
    for (const auto& [parent, token] : search.Advance(views)) {
      next.push_back(texts[parent]);
      next.back().push_back(token);
    }
    texts = std::move(next);
    MLF_EXPECT(search.n_beams() == static_cast<int64_t>(texts.size()));
    MLF_EXPECT(search.n_beams() <= options.width && texts.empty() == search.Done());
    for (size_t b = 0; b < texts.size(); ++b) MLF_EXPECT(search.Running(b).tokens == texts[b]);
  }
  if (steps_taken != nullptr) *steps_taken = steps;
  return search.Best(n);
}

struct Text {
  Ids tokens;
  double sum, score;
};

bool BetterText(const Text& a, const Text& b) { return a.score > b.score; }

double ScoreOf(double sum, size_t length, double penalty) {
  return sum / std::pow(static_cast<double>(length), penalty);
}

bool Ends(const BeamOptions& options, int32_t token) {
  return std::find(options.end_ids.begin(), options.end_ids.end(), token) != options.end_ids.end();
}

/// Every text that ends, by an end token or by its length.
void Enumerate(const Language& language, const BeamOptions& options, const Ids& text, double sum,
               std::vector<Text>* out) {
  const std::vector<float> logprobs = language.After(text);
  for (int32_t token = 0; token < language.n_vocab(); ++token) {
    Ids longer = text;
    longer.push_back(token);
    const double total = sum + logprobs[token];
    if (Ends(options, token) || static_cast<int64_t>(longer.size()) == options.max_tokens) {
      out->push_back({longer, total, ScoreOf(total, longer.size(), options.length_penalty)});
    } else {
      Enumerate(language, options, longer, total, out);
    }
  }
}

void ExpectSame(const std::vector<BeamHypothesis>& found, const std::vector<Text>& expected,
                size_t n, const Language& language) {
  MLF_EXPECT(found.size() == std::min(n, expected.size()));
  for (size_t i = 0; i < found.size(); ++i) {
    MLF_EXPECT(found[i].tokens == expected[i].tokens);
    MLF_EXPECT(std::fabs(found[i].sum - expected[i].sum) < 1e-9);
    MLF_EXPECT(std::fabs(found[i].score - expected[i].score) < 1e-9);
    MLF_EXPECT(found[i].logprobs.size() == found[i].tokens.size());
    const Ids head(found[i].tokens.begin(), found[i].tokens.end() - 1);
    MLF_EXPECT(found[i].logprobs.back() == language.After(head)[found[i].tokens.back()]);
  }
}

/// Two tokens and an end: 16 beams hold all texts of four tokens.
void TestFindsTheBestOfAll() {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    for (const double penalty : {0.0, 0.5, 1.0, 2.0, -1.0}) {
      const Language language(3, seed);
      BeamOptions options;
      options.width = 16;
      options.max_tokens = 1 + static_cast<int64_t>(seed % 5);
      options.length_penalty = penalty;
      options.early_stopping = EarlyStopping::kNever;
      options.end_ids = {1};
      std::vector<Text> all;
      Enumerate(language, options, {}, 0, &all);
      std::stable_sort(all.begin(), all.end(), BetterText);
      ExpectSame(Run(language, options, 5), all, 5, language);
    }
  }
}

/// The same search with whole sequences, which never stops early.
std::vector<Text> Naive(const Language& language, const BeamOptions& options) {
  std::vector<Text> running = {{{}, 0, 0}}, finished;
  for (int64_t length = 1; length <= options.max_tokens; ++length) {
    std::vector<Text> all;
    for (const Text& text : running) {
      for (const auto& [token, logprob] : language.Best(text.tokens, language.n_vocab())) {
        Text longer = text;
        longer.tokens.push_back(token);
        longer.sum += logprob;
        longer.score = ScoreOf(longer.sum, longer.tokens.size(), options.length_penalty);
        all.push_back(longer);
      }
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Text& a, const Text& b) { return a.sum > b.sum; });
    running.clear();
    for (size_t rank = 0; rank < all.size(); ++rank) {
      const bool ended = Ends(options, all[rank].tokens.back());
      const bool among_best = rank < static_cast<size_t>(options.width);
      if ((ended || length == options.max_tokens) && among_best) {
        finished.push_back(all[rank]);
      } else if (!ended && static_cast<int64_t>(running.size()) < options.width) {
        running.push_back(all[rank]);
      }
    }
  }
  std::stable_sort(finished.begin(), finished.end(), BetterText);
  return finished;
}

/// Stopping when nothing can become better changes nothing; and nodes are unrolled rightly.
void TestNarrowSearches() {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Language language(2 + static_cast<int32_t>(seed % 7), seed);
    BeamOptions options;
    options.width = 1 + static_cast<int64_t>(RandomBits(seed, 1) % 5);
    options.max_tokens = 1 + static_cast<int64_t>(RandomBits(seed, 2) % 9);
    options.length_penalty = RandomUniform(seed, 3) * 3 - 1;
    options.early_stopping = EarlyStopping::kNever;
    if (seed % 3 != 0) options.end_ids = {1, 0, 1};
    const std::vector<Text> expected = Naive(language, options);
    ExpectSame(Run(language, options, options.width), expected, options.width, language);
    if (options.length_penalty > 0) continue;
    options.early_stopping = EarlyStopping::kHeuristic;  // as good where length is no gain
    ExpectSame(Run(language, options, options.width), expected, options.width, language);
  }
}

/// The sooner a search may stop the fewer steps it takes; one beam is the greedy choice.
void TestEarlyStopping() {
  bool fewer = false;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const Language language(6, seed);
    BeamOptions options;
    options.width = 3;
    options.max_tokens = 12;
    options.end_ids = {2};
    int64_t steps[3];
    for (const int32_t early : {0, 1, 2}) {
      options.early_stopping = static_cast<EarlyStopping>(early);
      Run(language, options, 1, &steps[early]);
    }
    MLF_EXPECT(steps[1] <= steps[0] && steps[0] <= steps[2]);
    fewer |= steps[1] < steps[0] && steps[0] < steps[2];
    options.width = 1;
    options.end_ids = {};
    Ids greedy;
    while (greedy.size() < 12) greedy.push_back(language.Best(greedy, 1)[0].token);
    MLF_EXPECT(Run(language, options, 1)[0].tokens == greedy);
  }
  MLF_EXPECT(fewer);
}

std::vector<BeamStep> AdvanceOne(BeamSearch& search, const std::vector<TokenLogprob>& list) {
  const std::span<const TokenLogprob> view = list;
  return search.Advance({&view, 1});
}

/// What runs when a search is ended from outside counts, and tokens that may not come do not.
void TestEnds() {
  BeamOptions options;
  options.width = 2;
  options.max_tokens = 9;
  options.end_ids = {5, 5, 6, 7, 8};
  BeamSearch search(options);
  MLF_EXPECT(search.candidates_per_beam() == 6 && search.n_beams() == 1);
  const std::vector<BeamStep> steps = AdvanceOne(search, {{5, -1}, {3, -2}, {4, -kInfF}});
  MLF_EXPECT(steps.size() == 1 && steps[0].parent == 0 && steps[0].token == 3 && !search.Done());
  MLF_EXPECT(search.Best(9).size() == 1 && search.Best(9)[0].ended && search.Best(0).empty());
  search.Finish();
  MLF_EXPECT(search.Done() && search.n_beams() == 0);
  const std::vector<BeamHypothesis> best = search.Best(9);
  MLF_EXPECT(best.size() == 2 && best[0].tokens == Ids{5} && best[1].tokens == Ids{3});
  MLF_EXPECT(best[0].ended && !best[1].ended && best[1].score == -2);
  MLF_EXPECT(search.Advance({}).empty());

  BeamSearch equal(options);  // the first to finish stays the first
  AdvanceOne(equal, {{6, -1}, {5, -1}, {3, -1}});
  MLF_EXPECT(equal.Best(2)[0].tokens == Ids{6} && equal.Best(2)[1].tokens == Ids{5});
  BeamSearch none(options);  // no token may follow
  MLF_EXPECT(AdvanceOne(none, {{1, -kInfF}}).empty() && none.Done() && none.Best(1).empty());
  BeamSearch unused(options);
  unused.Finish();
  MLF_EXPECT(unused.Done() && unused.Best(1).empty());
}

void TestRefused() {
  const auto with = [](auto set) {
    BeamOptions options;
    set(options);
    return BeamSearch(options);
  };
  using O = BeamOptions;
  MLF_EXPECT_THROWS(with([](O& o) { o.width = 0; }), "ValueError", "width is 0");
  MLF_EXPECT_THROWS(with([](O& o) { o.width = 17; }), "ValueError", "width is 17");
  MLF_EXPECT_THROWS(with([](O& o) { o.max_tokens = 0; }), "ValueError", "max_tokens is 0");
  MLF_EXPECT_THROWS(with([](O& o) { o.length_penalty = std::nan(""); }), "ValueError",
                    "length_penalty is nan");
  MLF_EXPECT_THROWS(with([](O& o) { o.early_stopping = static_cast<EarlyStopping>(3); }),
                    "ValueError", "early_stopping is 3");
  BeamSearch search{BeamOptions()};
  MLF_EXPECT_THROWS(search.Advance({}), "ValueError", "the number of lists is 0");
  MLF_EXPECT_THROWS(search.Running(1), "IndexError", "beam 1");
  MLF_EXPECT(search.Running(0).tokens.empty());
}

void TestBestOf() {
  const std::vector<SequenceScore> sequences = {{-4, 2}, {-3, 3},           {0, 0},
                                                {-2, 1}, {std::nan(""), 3}, {-30, 60}};
  MLF_EXPECT((RankByMeanLogprob(sequences) == Ids{5, 1, 0, 3, 2, 4}));
  MLF_EXPECT(RankByMeanLogprob({}).empty());
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestFindsTheBestOfAll();
  mlf::TestNarrowSearches();
  mlf::TestEarlyStopping();
  mlf::TestEnds();
  mlf::TestRefused();
  mlf::TestBestOf();
  return 0;
}
