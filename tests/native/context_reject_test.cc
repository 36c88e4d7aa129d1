// Tests that src/runtime/context refuses what it cannot do, and is afterwards as it was before.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "runtime/context.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::BatchOf;
using test::LoadTiny;
using test::RowOf;
using test::SameRow;
using test::TinyText;

constexpr int64_t kHeld = 20;

/// Two sequences of a text each. Whatever is refused, both must go on as if nothing had been asked.
class Held {
 public:
  explicit Held(std::shared_ptr<const Model> model, int64_t n_ctx = 64)
      : model_(std::move(model)), context(model_, {.n_ctx = n_ctx, .n_seq_max = 3, .n_batch = 8}) {
    context.Decode(BatchOf(text_, 0, kHeld, {0}));
    context.Decode(BatchOf(text_, 0, kHeld - 5, {1}));
  }

  void CheckUnchanged() {
    for (const int64_t seq : {0, 1}) {
      const int64_t held = kHeld - 5 * seq;
      MLF_EXPECT(context.Count(seq) == held);
      MLF_EXPECT(context.Positions(seq)->first == 0 && context.Positions(seq)->second == held - 1);
    }
    MLF_EXPECT(context.Count(2) == 0 && !context.Positions(2));
  }

  /// Continues both texts and compares with one that met no refusal.
  void CheckContinues() {
    CheckUnchanged();
    Context fresh(model_, {});
    fresh.Decode(BatchOf(text_, 0, kHeld + 3));
    context.Decode(BatchOf(text_, kHeld, kHeld + 3, {0}));
    MLF_EXPECT(SameRow(RowOf(context, -1), RowOf(fresh, -1)));
    context.Decode(BatchOf(text_, kHeld - 5, kHeld + 3, {1}));
    MLF_EXPECT(SameRow(RowOf(context, -1), RowOf(fresh, -1)));
  }

  std::shared_ptr<const Model> model_;
  std::vector<int64_t> text_ = TinyText(kHeld + 3);
  Context context;
};

void TestWrongTokens(const std::shared_ptr<const Model>& model) {
  Held held(model);
  struct Case {
    BatchToken wrong;
    const char* part;
  };
  for (const Case& c : {
           Case{{-1, kHeld + 1, {0}, true}, "token -1 at index 1"},
           Case{{test::kTinyRows, kHeld + 1, {0}, true}, "token 304 at index 1"},
           Case{{INT64_MAX, kHeld + 1, {0}, true}, "out of range, expected 0 to 303"},
           Case{{5, kHeld, {0}, true}, "position 20 at index 1 is not after 20"},
           Case{{5, 0, {1}, true}, "position 0 at index 1 is not after 14"},
           Case{{5, -1, {2}, true}, "position -1 at index 1 is out of range"},
           Case{{5, INT32_MAX, {2}, true}, "position 2147483647 at index 1"},
           Case{{5, int64_t{1} << 40, {2}, true}, "out of range"},
           Case{{5, 30, {}, true}, "index 1 has no sequence"},
           Case{{5, 30, {3}, true}, "sequence 3 is out of range, expected 0 to 2 (n_seq_max=3)"},
           Case{{5, 30, {-1}, true}, "sequence -1 is out of range"},
           Case{{5, 30, {1, INT64_MIN}, true}, "is out of range"},
           Case{{5, 30, {1, 2, 1}, true}, "is not after 30, the last of sequence 1"},
       }) {
    Batch batch = BatchOf(held.text_, kHeld, kHeld + 1);
    batch.tokens.push_back(c.wrong);
    MLF_EXPECT_THROWS(held.context.Decode(batch), "ValueError", c.part);
    held.CheckUnchanged();
  }
  MLF_EXPECT_THROWS(held.context.Decode(Batch{}), "ValueError", "the batch is empty");
  MLF_EXPECT_THROWS(held.context.Decode(std::span<const int64_t>()), "ValueError", "empty");
  MLF_EXPECT_THROWS(held.context.Decode(std::vector<int64_t>{1, 304}), "ValueError", "token 304");
  MLF_EXPECT_THROWS(held.context.Decode(TinyText(45)), "ValueError", "65 tokens, more than n_ctx");
  held.CheckContinues();
}

void TestWrongRanges(const std::shared_ptr<const Model>& model) {
  Held held(model);
  Context& c = held.context;
  for (const int64_t seq : {int64_t{-1}, int64_t{3}, INT64_MAX}) {
    MLF_EXPECT_THROWS(c.Remove(seq, 0, std::nullopt), "ValueError", "is out of range");
    MLF_EXPECT_THROWS(c.Copy(seq, 0, 0, std::nullopt), "ValueError", "src ");
    MLF_EXPECT_THROWS(c.Copy(0, seq, 0, std::nullopt), "ValueError", "dst ");
    MLF_EXPECT_THROWS(c.Keep(seq), "ValueError", "is out of range");
    MLF_EXPECT_THROWS(c.Shift(seq, 0, 1, 1), "ValueError", "is out of range");
    MLF_EXPECT_THROWS(c.Positions(seq), "ValueError", "is out of range");
    MLF_EXPECT_THROWS(c.Count(seq), "ValueError", "is out of range");
    MLF_EXPECT_THROWS(c.SaveState("unused", seq), "ValueError", "is out of range");
    MLF_EXPECT_THROWS(c.LoadState("unused", seq), "ValueError", "is out of range");
  }
  for (const auto& [p0, p1] : {std::pair<int64_t, int64_t>{-1, 5}, {5, 4}, {0, int64_t{1} << 31}}) {
    MLF_EXPECT_THROWS(c.Remove(0, p0, p1), "ValueError", "not a range of positions");
    MLF_EXPECT_THROWS(c.Copy(0, 2, p0, p1), "ValueError", "not a range of positions");
    MLF_EXPECT_THROWS(c.Shift(0, p0, p1, 1), "ValueError", "not a range of positions");
  }
  MLF_EXPECT_THROWS(c.Copy(0, 1, 0, std::nullopt), "ValueError", "position 0 of sequence 0");
  MLF_EXPECT_THROWS(c.Copy(0, 1, 14, std::nullopt), "ValueError", "is not after 14");
  c.Copy(0, 0, 0, std::nullopt);
  held.CheckContinues();
}

/// A sequence holds n_ctx entries at most, wherever they come from.
void TestCopyBeyondContext(const std::shared_ptr<const Model>& model) {
  Context context(model, {.n_ctx = 64, .n_seq_max = 3});
  context.Decode(BatchOf(TinyText(40), 0, 40, {0}));
  context.Copy(0, 1, 0, std::nullopt);
  context.Shift(0, 0, std::nullopt, 40);
  MLF_EXPECT_THROWS(context.Copy(0, 1, 0, std::nullopt), "ValueError", "n_ctx=64");
  MLF_EXPECT(context.Count(1) == 40 && context.Positions(1)->second == 39);
  context.Copy(0, 1, 40, 64);
  MLF_EXPECT(context.Count(1) == 64 && context.Positions(1)->second == 63);
}

/// n_ctx 64 and three sequences have five pages. 20 + 15 entries take two, so that a batch for two
/// sequences fails after it has taken the rest.
void TestFullCache(const std::shared_ptr<const Model>& model) {
  Held held(model);
  const auto text = TinyText(64);
  Batch batch;
  for (int64_t i = kHeld; i < 64; ++i) batch.tokens.push_back({text[i], i, {0, 1}, i == 63});
  for (int64_t i = 0; i < 64; ++i) batch.tokens.push_back({text[i], i, {2}, false});
  for (int times = 0; times < 3; ++times) {
    MLF_EXPECT_THROWS(held.context.Decode(batch), "RuntimeError", "of 5 are free");
    MLF_EXPECT_THROWS(held.context.logits(), "RuntimeError", "the last decode failed");
    held.CheckUnchanged();
  }
  // All pages came back: the three that are free are enough for this.
  batch.tokens.resize(64 - kHeld);
  held.context.Decode(batch);
  held.context.Decode(BatchOf(text, 0, 32, {2}));
  MLF_EXPECT_THROWS(held.context.Decode(BatchOf(text, 32, 33, {2})), "RuntimeError", "is full");
  held.context.Remove(0, kHeld, std::nullopt);
  held.context.Remove(1, kHeld - 5, std::nullopt);
  held.context.Remove(2, 0, std::nullopt);
  held.CheckContinues();
}

/// Operations that need a page for a copy, on a cache without one: five pages, one of them shared.
void TestFullOperations(const std::shared_ptr<const Model>& model) {
  Context context(model, {.n_ctx = 64, .n_seq_max = 3});
  const auto text = TinyText(64);
  context.Decode(BatchOf(text, 0, 64, {0}));
  context.Copy(0, 1, 0, 32);
  context.Decode(BatchOf(text, 32, 63, {1}));
  context.Decode(BatchOf(text, 0, 64, {2}));
  MLF_EXPECT_THROWS(context.Remove(1, 10, 40), "RuntimeError", "of 5 are free");
  MLF_EXPECT_THROWS(context.Shift(0, 0, std::nullopt, 5), "RuntimeError", "is full");
  for (const int64_t seq : {0, 1, 2}) {
    MLF_EXPECT(context.Count(seq) == (seq == 1 ? 63 : 64));
    MLF_EXPECT(context.Positions(seq)->second == (seq == 1 ? 62 : 63));
  }
  context.Decode(BatchOf(text, 63, 64, {1}));
  const auto after = RowOf(context, -1);
  context.Remove(0, 0, std::nullopt);  // needs no page, shared or not
  MLF_EXPECT(context.Count(0) == 0 && context.Count(1) == 64);
  Context fresh(model, {});
  fresh.Decode(BatchOf(text, 0, 64));
  MLF_EXPECT(SameRow(after, RowOf(fresh, -1)));
}

}  // namespace
}  // namespace mlf

int main() {
  const auto model = mlf::LoadTiny();
  mlf::TestWrongTokens(model);
  mlf::TestWrongRanges(model);
  mlf::TestCopyBeyondContext(model);
  mlf::TestFullCache(model);
  mlf::TestFullOperations(model);
  return 0;
}
