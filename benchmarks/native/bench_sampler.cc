// Prints the time of sampling all rows of a step; bench_sampler [threads [rows [n_vocab]]]. The
// tokens are checked against a Sampler's before the clock starts; more in tests/native.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "check.h"
#include "runtime/batch_sampler.h"
#include "runtime/sampler.h"

namespace mlf {
namespace {

/// A normal body, and in rows as a language model mostly gives them 2,000 tokens above it, whose
/// probabilities at temperature 0.8 fall with the power 1.5 of their rank.
std::vector<float> Logits(int64_t rows, int64_t n_vocab, bool flat) {
  std::vector<float> logits(rows * n_vocab);
  for (size_t i = 0; i < logits.size(); ++i) {
    double sum = 0;
    for (uint64_t j = 0; j < 4; ++j) sum += RandomUniform(j, i);
    logits[i] = static_cast<float>((sum - 2) * 4.5);
  }
  for (uint64_t r = 0; !flat && r < static_cast<uint64_t>(rows); ++r) {
    for (int rank = 1; rank <= 2000; ++rank) {
      const uint64_t token = RandomBits(r, rank) % n_vocab;
      logits[r * n_vocab + token] = static_cast<float>(22 - 1.2 * std::log(rank));
    }
  }
  return logits;
}

struct Bench {
  int64_t rows, n_vocab;
  bool flat;
  std::vector<float> logits = Logits(rows, n_vocab, flat);
  std::vector<int32_t> history = std::vector<int32_t>(2000);
  std::vector<int32_t> bitmask = std::vector<int32_t>((n_vocab + 31) / 32, 0x0F0F0F0F);

  void Measure(const char* name, const SamplingParams& params, bool masked, int64_t n_logprobs) {
    std::vector<RowInput> inputs(rows);
    for (int64_t r = 0; r < rows; ++r) {
      inputs[r].params = &params;
      inputs[r].seed = r;
      inputs[r].history = history;
      inputs[r].n_logprobs = n_logprobs;
      if (masked) inputs[r].bitmask = bitmask.data();
    }
    std::vector<RowOutput> outputs(rows);
    std::vector<double> us;
    for (double total = 0; total < 300e3 || us.size() < 10; total += us.back()) {
      std::vector<float> fresh = logits;  // in the caches as after a forward pass
      const auto start = std::chrono::steady_clock::now();
      SampleRows(fresh.data(), n_vocab, n_vocab, inputs, outputs);
      us.push_back(
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
              .count());
      if (us.size() == 1) CheckTokens(params, masked, outputs);
    }
    std::sort(us.begin(), us.end());
    std::printf("%-40s %9.0f us median %9.0f us best\n", name, us[us.size() / 2], us.front());
  }

  void CheckTokens(const SamplingParams& params, bool masked, const std::vector<RowOutput>& found) {
    for (int64_t r = 0; r < std::min<int64_t>(rows, 2); ++r) {
      std::vector<float> row(logits.begin() + r * n_vocab, logits.begin() + (r + 1) * n_vocab);
      for (int64_t i = 0; masked && i < n_vocab; ++i) {
        if ((bitmask[i / 32] >> (i % 32) & 1) == 0) row[i] = -INFINITY;
      }
      Sampler sampler;
      for (const SamplerStage& stage : params.Stages()) sampler.Add(stage);
      sampler.Add(DrawStage{static_cast<uint64_t>(r)});
      for (const int32_t token : history) sampler.Accept(token);
      MLF_EXPECT(sampler.Sample(row) == found[r].token);
    }
  }
};

}  // namespace
}  // namespace mlf

int main(int argc, char** argv) {
  const mlf::ThreadLimit limit(argc > 1 ? std::atoi(argv[1]) : 0);
  const int rows = argc > 2 ? std::atoi(argv[2]) : 32,
            n_vocab = argc > 3 ? std::atoi(argv[3]) : 151936;
  using P = mlf::SamplingParams;
  for (const bool flat : {false, true}) {
    std::printf("%s logits [%d, %d]\n", flat ? "flat" : "peaked", rows, n_vocab);
    mlf::Bench bench{rows, n_vocab, flat};
    std::iota(bench.history.begin(), bench.history.end(), 7);
    const P usual{.temperature = 0.8, .top_k = 40, .top_p = 0.95};
    bench.Measure("greedy", P{.temperature = 0}, false, -1);
    bench.Measure("t=0.8 k=40 p=0.95", usual, false, -1);
    bench.Measure("the same, masked", usual, true, -1);
    bench.Measure("the same, 5 logprobs", usual, false, 5);
    P penalties = usual;
    penalties.repetition_penalty = 1.1;
    bench.Measure("the same, 2000 tokens penalized", penalties, false, -1);
    bench.Measure("t=0.8", P{.temperature = 0.8}, false, -1);
    bench.Measure("t=0.8 p=0.95", P{.temperature = 0.8, .top_p = 0.95}, false, -1);
    bench.Measure("t=0.8 min_p=0.05", P{.temperature = 0.8, .min_p = 0.05}, false, -1);
  }
  return 0;
}
