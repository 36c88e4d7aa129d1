// Tests of what a batch may carry beside its tokens: given embeddings, views, hidden rows.
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "runtime/embedding.h"
#include "runtime/step.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::LoadTiny;
using test::Rows;
using test::SameRow;
using test::SameRows;
using test::TinyText;

/// A token of sequence `seq`, with what few tokens have.
struct Given {
  int32_t token, position;
  int64_t seq = 0;
  int32_t window = 0, sinks = 0;
  std::vector<float> embedding{};
  bool output = true, wants_row = false;
};

struct Passed {
  Rows logits, rows;
};

Rows Split(const std::vector<float>& values, int64_t cols) {
  Rows rows;
  for (auto at = values.begin(); at != values.end(); at += cols) rows.emplace_back(at, at + cols);
  return rows;
}

/// Passes over a cache of its own.
class Runner {
 public:
  explicit Runner(std::shared_ptr<const Model> model)
      : model_(std::move(model)),
        cache_(model_->config(), 256, 4, kF32),
        workspace_(model_->config(), 256) {}

  KvCache& cache() { return cache_; }

  Passed Run(const std::vector<Given>& tokens) {
    const ThreadLimit limit(model_->n_threads());
    step_.Clear();
    for (const Given& t : tokens) {
      step_.Add(cache_, t.seq, t.token, t.position, t.output);
      if (t.window > 0 || t.sinks > 0) step_.SetView(t.window, t.sinks);
      if (!t.embedding.empty()) step_.SetEmbedding(t.embedding);
      if (t.wants_row) step_.WantEmbedding();
    }
    const ModelConfig& c = model_->config();
    ForwardBatch batch = step_.Views(cache_);
    std::vector<float> logits(step_.n_outputs() * c.n_vocab), rows(step_.n_embeddings() * c.n_embd);
    if (!rows.empty()) batch.embeddings = {rows.data(), kF32, {step_.n_embeddings(), c.n_embd}};
    model_->network()->Forward(batch, cache_.layers(), workspace_, {c.rope_base, c.rope_freq_scale},
                               {logits.data(), kF32, {step_.n_outputs(), c.n_vocab}});
    return {Split(logits, c.n_vocab), Split(rows, c.n_embd)};
  }

  /// In passes of `chunk` tokens.
  Passed RunIn(const std::vector<Given>& tokens, size_t chunk) {
    Passed all;
    for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
      const auto end = std::min(tokens.size(), begin + chunk);
      const Passed part = Run({tokens.begin() + begin, tokens.begin() + end});
      all.logits.insert(all.logits.end(), part.logits.begin(), part.logits.end());
      all.rows.insert(all.rows.end(), part.rows.begin(), part.rows.end());
    }
    return all;
  }

 private:
  std::shared_ptr<const Model> model_;
  KvCache cache_;
  Workspace workspace_;
  Step step_;
};

std::vector<Given> Sequence(int64_t count, uint64_t seed = 7) {
  std::vector<Given> tokens;
  for (const int64_t id : TinyText(count, seed)) {
    tokens.push_back({static_cast<int32_t>(id), static_cast<int32_t>(tokens.size())});
  }
  return tokens;
}

/// A given row that is the row of a token does what the token does, whatever the id beside it.
void TestGivenEmbeddings() {
  const auto model = LoadTiny();
  const GgufTensor* table = model->file()->FindTensor("token_embd.weight");
  const auto tokens = Sequence(30);
  const Rows want = Runner(model).Run(tokens).logits;
  for (const size_t every : {1, 3}) {
    auto given = tokens;
    for (size_t i = 0; i < given.size(); i += every) {
      const auto* row = reinterpret_cast<const float*>(table->data) + given[i].token * 64;
      given[i].embedding.assign(row, row + 64);
      given[i].token = 0;
    }
    for (const size_t chunk : {30, 7, 1}) {
      MLF_EXPECT(SameRows(Runner(model).RunIn(given, chunk).logits, want));
    }
    given[0].embedding[0] += 0.5f;
    MLF_EXPECT(!SameRow(Runner(model).Run(given).logits[0], want[0]));
  }
}

/// A token with a window gives the bits that it gives where the entries outside are not in the
/// cache, single ones or whole pages.
void TestViews() {
  const auto model = LoadTiny();
  const auto tokens = Sequence(201);
  for (const auto& [window, sinks] :
       {std::pair{50, 0}, {50, 4}, {33, 40}, {2, 0}, {150, 1}, {300, 2}}) {
    Runner viewed(model), cut(model), whole(model);
    for (Runner* runner : {&viewed, &cut, &whole}) {
      runner->Run({tokens.begin(), tokens.end() - 1});
    }
    Given last = tokens.back();
    const Rows all = whole.Run({last}).logits;
    last.window = window;
    last.sinks = sinks;
    const Rows got = viewed.Run({last}).logits;
    const int32_t first = 200 - window + 1;
    if (first > sinks) cut.cache().Remove(0, sinks, first);
    MLF_EXPECT(static_cast<size_t>(cut.cache().pages(0).size()) ==
               (first <= sinks ? 7u : 7u - (first / 32 - (sinks + 31) / 32)));
    MLF_EXPECT(SameRows(got, cut.Run({tokens.back()}).logits));
    MLF_EXPECT(SameRow(got[0], all[0]) == (first <= sinks));
  }
}

/// Every token with a view of its own: the same in any chunks, beside a sequence without views.
void TestViewsInBatches() {
  const auto model = LoadTiny({}, {.n_threads = 2});
  auto tokens = Sequence(120);
  for (Given& t : tokens) {
    t.window = 1 + t.position % 40;
    t.sinks = t.position % 5;
  }
  const Rows want = Runner(model).RunIn(tokens, 1).logits;
  for (const size_t chunk : {120, 13}) {
    MLF_EXPECT(SameRows(Runner(model).RunIn(tokens, chunk).logits, want));
  }
  const auto others = Sequence(120, 8);
  const Rows plain = Runner(model).Run(others).logits;
  std::vector<Given> mixed;
  for (size_t i = 0; i < tokens.size(); ++i) {
    mixed.push_back(tokens[i]);
    mixed.push_back(others[i]);
    mixed.back().seq = 1;
  }
  const Rows both = Runner(model).RunIn(mixed, 50).logits;
  for (size_t i = 0; i < tokens.size(); ++i) {
    MLF_EXPECT(SameRow(both[2 * i], want[i]) && SameRow(both[2 * i + 1], plain[i]));
  }
}

/// Hidden rows times the tied head are the logits, and asking for them changes no logit.
void TestHiddenRows() {
  const auto model = LoadTiny();
  auto tokens = Sequence(40);
  const Rows want = Runner(model).Run(tokens).logits;
  for (Given& t : tokens) {
    t.wants_row = t.position % 3 != 1;
    t.output = t.position % 2 == 0;
  }
  const Passed got = Runner(model).Run(tokens);
  const Passed chunked = Runner(model).RunIn(tokens, 7);
  MLF_EXPECT(SameRows(got.rows, chunked.rows) && SameRows(got.logits, chunked.logits));
  const auto* head =
      reinterpret_cast<const float*>(model->file()->FindTensor("token_embd.weight")->data);
  size_t row = 0, output = 0;
  for (const Given& t : tokens) {
    if (t.output) MLF_EXPECT(SameRow(got.logits[output++], want[t.position]));
    if (!t.wants_row) continue;
    const std::vector<float>& hidden = got.rows[row++];
    for (int64_t id = 0; id < test::kTinyRows; ++id) {
      double logit = 0;
      for (int64_t i = 0; i < 64; ++i) logit += double{hidden[i]} * head[id * 64 + i];
      MLF_EXPECT(std::abs(logit - want[t.position][id]) < 1e-3);
    }
  }
  MLF_EXPECT(row == got.rows.size() && output == got.logits.size());
  for (Given& t : tokens) t.output = false;
  MLF_EXPECT(SameRows(Runner(model).Run(tokens).rows, got.rows));
}

void TestPooling() {
  MLF_EXPECT(PoolingOf("mean") == Pooling::kMean && PoolingOf("cls") == Pooling::kCls);
  MLF_EXPECT(PoolingOf("last") == Pooling::kLast);
  MLF_EXPECT_THROWS(PoolingOf("max"), "ValueError", "pooling is \"max\"");
  ModelConfig config;
  MLF_EXPECT(PoolingOf(config) == Pooling::kMean);
  config.pooling_type = 3;
  MLF_EXPECT(PoolingOf(config) == Pooling::kLast);
  config.pooling_type = 4;
  MLF_EXPECT_THROWS(PoolingOf(config), "NotImplementedError", "pooling_type is 4");
  const std::vector<float> rows[] = {{3, 0}, {0, 4}, {3, 2}};
  const auto pooled = [&](Pooling pooling, bool normalize, int64_t n) {
    EmbeddingPool pool(pooling, 2);
    for (int64_t i = 0; i < n; ++i) pool.Add(rows[i]);
    std::vector<float> out(2, NAN);
    pool.Finish(normalize, out.data());
    return out;
  };
  using Row = std::vector<float>;
  MLF_EXPECT(pooled(Pooling::kMean, false, 3) == Row({2, 2}));
  MLF_EXPECT(pooled(Pooling::kMean, true, 2) == Row({0.6f, 0.8f}));
  MLF_EXPECT(pooled(Pooling::kCls, false, 3) == Row({3, 0}));
  MLF_EXPECT(pooled(Pooling::kLast, false, 3) == Row({3, 2}));
  MLF_EXPECT(pooled(Pooling::kLast, true, 2) == Row({0, 1}));
  MLF_EXPECT(pooled(Pooling::kMean, true, 0) == Row({0, 0}));
}

/// A text's vector is the same alone, among others, and where it is cut into passes.
void TestTexts() {
  const auto model = LoadTiny();
  std::vector<std::vector<int64_t>> texts;
  for (const int64_t n : {1, 200, 3, 256, 100, 100, 2}) texts.push_back(TinyText(n, n));
  const EmbedOptions plain{.pooling = Pooling::kMean, .normalize = false};
  const ffi::Tensor all = Embed(model, texts, plain);
  MLF_EXPECT(all.size(0) == 7 && all.size(1) == 64);
  for (size_t i = 0; i < texts.size(); ++i) {
    const ffi::Tensor one = Embed(model, {texts[i]}, plain);
    MLF_EXPECT(std::memcmp(one.data_ptr(), static_cast<float*>(all.data_ptr()) + i * 64, 256) == 0);
  }
  MLF_EXPECT(Embed(model, {}, {}).size(0) == 0);
  MLF_EXPECT_THROWS(Embed(model, {{5}, {}}, {}), "ValueError", "text 1 has no tokens");
  MLF_EXPECT_THROWS(Embed(model, {TinyText(257)}, {}), "ValueError", "text 0 has 257 tokens");
  MLF_EXPECT_THROWS(Embed(model, {{304}}, {}), "ValueError", "token 304");
  Context context(model, {});
  MLF_EXPECT_THROWS(context.embeddings(), "ValueError", "without embeddings=True");
  Context keeps(model, {.embeddings = true});
  MLF_EXPECT_THROWS(keeps.embeddings(), "RuntimeError", "nothing has been decoded");
  keeps.Decode(TinyText(5));
  MLF_EXPECT(keeps.embeddings().size(0) == 5 && keeps.logits().size(0) == 1);
  MLF_EXPECT_THROWS(keeps.Decode(std::vector<int64_t>{400}), "ValueError", "token 400");
  MLF_EXPECT(keeps.embeddings().size(0) == 5);  // refused before anything changed
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestGivenEmbeddings();
  mlf::TestViews();
  mlf::TestViewsInBatches();
  mlf::TestHiddenRows();
  mlf::TestPooling();
  mlf::TestTexts();
  return 0;
}
