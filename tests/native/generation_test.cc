// Tests of src/runtime/generation and sampler over a tiny model: what comes out is what the tokens
// say, however it is cut.
#include "runtime/generation.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::BatchOf;
using test::LoadTiny;
using test::RowOf;
using test::TinyText;

constexpr double kForbidden = -std::numeric_limits<double>::infinity();

/// Draws letters only, so that no byte token and no end token gets between.
std::shared_ptr<Sampler> Letters(uint64_t seed) {
  auto sampler = std::make_shared<Sampler>();
  LogitBiasStage bias;
  for (int64_t id = 0; id < test::kTinyFirstLetter; ++id) bias.bias.emplace_back(id, kForbidden);
  sampler->Add(bias);
  sampler->Add(TemperatureStage{1.5});
  sampler->Add(DrawStage{seed});
  return sampler;
}

std::shared_ptr<Context> NewContext(const std::shared_ptr<const Model>& model, int64_t n_ctx = 0) {
  return std::make_shared<Context>(model, ContextOptions{.n_ctx = n_ctx});
}

/// All the text; every piece must be one that a caller may show.
std::string Run(Generation& generation) {
  std::string text;
  while (const auto piece = generation.Next()) {
    MLF_EXPECT(!piece->empty());
    text += *piece;
  }
  MLF_EXPECT(generation.finish_reason() != FinishReason::kNotFinished);
  for (int times = 0; times < 3; ++times) MLF_EXPECT(!generation.Next());
  return text;
}

std::string TextOf(const Model& model, const std::vector<int32_t>& ids) {
  StreamDecoder decoder(model.vocab(), /*skip_special=*/true, /*at_start=*/false);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  return text + decoder.Finish();
}

void TestGreedy(const std::shared_ptr<const Model>& model) {
  const auto prompt = TinyText(9);
  const auto context = NewContext(model);
  Generation generation(context, std::make_shared<Sampler>(), prompt, 20, {});
  const std::string text = Run(generation);
  Context by_hand(model, {});
  std::vector<int32_t> expected;
  by_hand.Decode(prompt);
  while (expected.size() < 20) {
    const auto row = RowOf(by_hand, -1);
    const auto best = std::max_element(row.begin(), row.begin() + test::kTinyTokens);
    const auto token = static_cast<int32_t>(best - row.begin());
    if (token == test::kTinyEos) break;
    expected.push_back(token);
    by_hand.Decode(std::vector<int64_t>{token});
  }
  MLF_EXPECT(generation.tokens() == expected && !expected.empty());
  MLF_EXPECT(text == TextOf(*model, expected));
  MLF_EXPECT(generation.timings().prompt_tokens == 9);
}

void TestReproducible(const std::shared_ptr<const Model>& model) {
  const auto sampler = Letters(11);
  std::vector<std::vector<int32_t>> runs;
  for (const uint64_t seed : {11, 11, 12}) {
    Generation generation(NewContext(model), Letters(seed), TinyText(5), 30, {});
    const std::string text = Run(generation);
    MLF_EXPECT(generation.finish_reason() == FinishReason::kLength);
    MLF_EXPECT(generation.tokens().size() == 30 && text == TextOf(*model, generation.tokens()));
    runs.push_back(generation.tokens());
  }
  MLF_EXPECT(runs[0] == runs[1] && runs[0] != runs[2]);
  for (int times = 0; times < 2; ++times) {  // Reset begins the seed's numbers again
    Generation generation(NewContext(model), sampler, TinyText(5), 30, {});
    Run(generation);
    MLF_EXPECT(generation.tokens() == runs[0]);
    sampler->Reset();
  }
}

/// Every part of a text as the stop string: what comes out ends where it first stands.
void TestStops(const std::shared_ptr<const Model>& model) {
  Generation whole(NewContext(model), Letters(5), TinyText(5), 24, {});
  const std::string text = Run(whole);
  MLF_EXPECT(text.size() >= 24);
  for (size_t begin = 0; begin < text.size(); begin += 3) {
    for (const size_t length : {1, 2, 5, 9}) {
      const std::string stop = text.substr(begin, length);
      for (const std::vector<std::string>& stops :
           {std::vector<std::string>{stop}, {"0123", stop, stop + "456", "\xFF"}}) {
        Generation generation(NewContext(model), Letters(5), TinyText(5), 24, stops);
        MLF_EXPECT(Run(generation) == text.substr(0, text.find(stop)));
        MLF_EXPECT(generation.finish_reason() == FinishReason::kStopWords);
      }
    }
  }
  // What only begins like a stop string is held back and comes in the end.
  Generation held(NewContext(model), Letters(5), TinyText(5), 24, {text.substr(20) + "0"});
  MLF_EXPECT(Run(held) == text && held.finish_reason() == FinishReason::kLength);
}

void TestLimits(const std::shared_ptr<const Model>& model) {
  const auto context = NewContext(model);
  Generation none(context, Letters(1), TinyText(5), 0, {});
  MLF_EXPECT(Run(none).empty() && none.tokens().empty());
  MLF_EXPECT(none.finish_reason() == FinishReason::kLength && context->Count(0) == 0);
  Generation one(context, Letters(1), TinyText(5), 1, {});
  const std::string text = Run(one);
  MLF_EXPECT(text == TextOf(*model, one.tokens()) && one.tokens().size() == 1);
  MLF_EXPECT(one.finish_reason() == FinishReason::kLength && context->Count(0) == 5);
  for (const int64_t n_ctx : {5, 6, 12}) {  // as many as fit, and the one after the last of them
    Generation full(NewContext(model, n_ctx), Letters(1), TinyText(5), 100, {});
    Run(full);
    MLF_EXPECT(full.finish_reason() == FinishReason::kLength);
    MLF_EXPECT(static_cast<int64_t>(full.tokens().size()) == n_ctx - 5 + 1);
  }
  const auto end = std::make_shared<Sampler>();
  end->Add(LogitBiasStage{{{test::kTinyEos, 1e6}}});
  Generation ended(NewContext(model), end, TinyText(5), 100, {});
  MLF_EXPECT(Run(ended).empty() && ended.tokens().empty());
  MLF_EXPECT(ended.finish_reason() == FinishReason::kEndId);
}

void TestRefused(const std::shared_ptr<const Model>& model) {
  const auto context = NewContext(model, 8);
  const auto make = [&](std::vector<int64_t> prompt, int64_t max_new, std::vector<std::string> s) {
    return Generation(context, std::make_shared<Sampler>(), std::move(prompt), max_new,
                      std::move(s));
  };
  MLF_EXPECT_THROWS(make({}, 5, {}), "ValueError", "prompt: no tokens");
  MLF_EXPECT_THROWS(make({1}, -1, {}), "ValueError", "max_new_tokens is -1");
  MLF_EXPECT_THROWS(make({1}, 5, {"a", ""}), "ValueError", "a stop string is empty");
  MLF_EXPECT_THROWS(make({1, 304}, 5, {}), "ValueError", "token 304 is out of range");
  MLF_EXPECT_THROWS(make({-1}, 5, {}), "ValueError", "token -1 is out of range");
  MLF_EXPECT_THROWS(make(TinyText(9), 5, {}), "ValueError", "9 tokens do not fit n_ctx=8");
  MLF_EXPECT(context->Count(0) == 0);
  // Nothing may be left to draw from; the context is none the worse for it.
  const auto nothing = std::make_shared<Sampler>();
  LogitBiasStage bias;
  for (int64_t id = 0; id < test::kTinyTokens; ++id) bias.bias.emplace_back(id, kForbidden);
  nothing->Add(bias);
  Generation stuck(context, nothing, TinyText(3), 5, {});
  MLF_EXPECT_THROWS(stuck.Next(), "ValueError", "no token is left");
  context->Clear();
  MLF_EXPECT(Run(*std::make_unique<Generation>(context, Letters(1), TinyText(3), 2,
                                               std::vector<std::string>{}))
                 .size() >= 2);
}

void TestClosedModel() {
  const auto model = LoadTiny();
  Generation generation(NewContext(model), Letters(1), TinyText(5), 20, {});
  MLF_EXPECT(generation.Next().has_value());
  model->Close();
  MLF_EXPECT_THROWS(generation.Next(), "ValueError", "closed");
  MLF_EXPECT(generation.finish_reason() == FinishReason::kNotFinished);
}

}  // namespace
}  // namespace mlf

int main() {
  for (const mlf::Format format : {mlf::Format::kF32, mlf::Format::kQ4_1}) {
    const auto model = mlf::LoadTiny({.format = format});
    mlf::TestGreedy(model);
    mlf::TestReproducible(model);
    mlf::TestStops(model);
    mlf::TestLimits(model);
    mlf::TestRefused(model);
  }
  mlf::TestClosedModel();
  return 0;
}
