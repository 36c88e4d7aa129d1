// Tests of src/runtime/context: equal bits however a text is cut, sequences, refusals, full caches.
#include "runtime/context.h"

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::BatchOf;
using test::LoadTiny;
using test::RowOf;
using test::Rows;
using test::RowsOf;
using test::SameRow;
using test::SameRows;
using test::TinyText;
using Positions = std::optional<std::pair<int32_t, int32_t>>;

constexpr int64_t kLength = 75;  // two pages and a part
constexpr Format kFormats[] = {Format::kF32, Format::kQ8_0, Format::kQ4_1};

Rows Whole(const std::shared_ptr<const Model>& model, const std::vector<int64_t>& text,
           ContextOptions options = {}) {
  Context context(model, options);
  context.Decode(BatchOf(text, 0, static_cast<int64_t>(text.size())));
  return RowsOf(context);
}

void Append(Rows& rows, const Rows& more) { rows.insert(rows.end(), more.begin(), more.end()); }

void TestChunks(const std::shared_ptr<const Model>& model) {
  const auto text = TinyText(kLength);
  for (const DLDataType kv : {kF16, kF32}) {
    const Rows expected = Whole(model, text, {.kv_dtype = kv});
    for (const int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{32}, kLength}) {
      Context context(model, {.kv_dtype = kv});
      Rows rows;
      for (int64_t i = 0; i < kLength; i += chunk) {
        context.Decode(BatchOf(text, i, std::min(i + chunk, kLength)));
        Append(rows, RowsOf(context));
      }
      MLF_EXPECT(SameRows(rows, expected));
    }
    for (const int64_t n_batch : {1, 16, 74}) {  // one call, several passes
      MLF_EXPECT(SameRows(Whole(model, text, {.n_batch = n_batch, .kv_dtype = kv}), expected));
    }
  }
}

/// Three texts side by side, token by token, give what each gives alone.
void TestInterleaved(const std::shared_ptr<const Model>& model) {
  std::vector<std::vector<int64_t>> texts;
  std::vector<Rows> expected, rows(3);
  for (uint64_t seq = 0; seq < 3; ++seq) texts.push_back(TinyText(20 + 9 * seq, seq));
  for (const auto& text : texts) expected.push_back(Whole(model, text));
  Context context(model, {.n_ctx = 64, .n_seq_max = 3, .n_batch = 10});
  for (int64_t begin = 0; begin < 40; begin += 8) {
    Batch batch;
    for (int64_t i = begin; i < begin + 8; ++i) {
      for (int64_t seq = 2; seq >= 0; --seq) {
        if (i < static_cast<int64_t>(texts[seq].size()))
          batch.tokens.push_back({texts[seq][i], i, {seq}, true});
      }
    }
    context.Decode(batch);
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
      rows[batch.tokens[i].sequences[0]].push_back(RowOf(context, static_cast<int64_t>(i)));
    }
  }
  for (int64_t seq = 0; seq < 3; ++seq) MLF_EXPECT(SameRows(rows[seq], expected[seq]));
}

/// A prompt given to several sequences at once, and one copied later, continue as one alone.
void TestSharedPrompt(const std::shared_ptr<const Model>& model) {
  const auto text = TinyText(kLength);
  const Rows expected = Whole(model, text);
  Context context(model, {.n_ctx = 128, .n_seq_max = 4});
  context.Decode(BatchOf(text, 0, 40, {0, 2}));
  context.Copy(2, 1, 0, std::nullopt);
  for (const int64_t seq : {2, 0, 1}) {
    MLF_EXPECT(context.Count(seq) == 40 && context.Positions(seq) == Positions({0, 39}));
    context.Decode(BatchOf(text, 40, kLength, {seq}));
    MLF_EXPECT(SameRow(RowOf(context, -1), expected.back()));
    MLF_EXPECT(SameRow(RowOf(context, 0), expected[40]));
  }
  context.Keep(1);
  MLF_EXPECT(!context.Positions(0) && !context.Positions(2) && context.Count(1) == kLength);
  context.Copy(1, 3, 0, 33);
  context.Decode(BatchOf(text, 33, 50, {3}));
  MLF_EXPECT(SameRow(RowOf(context, -1), expected[49]));
}

void TestLogitsRows(const std::shared_ptr<const Model>& model) {
  const auto text = TinyText(12);
  const Rows expected = Whole(model, text);
  Context context(model, {.n_batch = 5});
  MLF_EXPECT_THROWS(context.logits(), "RuntimeError", "nothing has been decoded");
  Batch batch = BatchOf(text, 0, 12);
  for (int64_t i = 0; i < 12; ++i) batch.tokens[i].logits = i % 5 == 1;  // 1, 6, 11
  context.Decode(batch);
  MLF_EXPECT(SameRows(RowsOf(context), {expected[1], expected[6], expected[11]}));
  MLF_EXPECT(SameRow(RowOf(context, -3), expected[1]));
  MLF_EXPECT_THROWS(LogitsRow(context.logits(), 3), "IndexError", "index 3");
  MLF_EXPECT_THROWS(LogitsRow(context.logits(), -4), "IndexError", "index -4");
  const ffi::Tensor held = context.logits();
  context.Clear();
  MLF_EXPECT_THROWS(context.logits(), "RuntimeError", "nothing has been decoded");
  context.Decode(text);  // sequence 0, logits of the last
  MLF_EXPECT(SameRows(RowsOf(context), {expected[11]}));
  const auto* data = static_cast<const float*>(held.data_ptr());
  MLF_EXPECT(SameRow({data, data + held.size(1)}, expected[1]));  // as it was
  batch = BatchOf({5}, 0, 1);
  batch.tokens[0] = {5, 12, {0}, false};
  context.Decode(batch);
  MLF_EXPECT(context.logits().size(0) == 0);
  MLF_EXPECT_THROWS(LogitsRow(context.logits(), -1), "IndexError", "gave 0");
}

/// A removed end is as if it had never been; a hole keeps the positions around it.
void TestRemove(const std::shared_ptr<const Model>& model) {
  const auto text = TinyText(kLength);
  const Rows expected = Whole(model, text);
  Context context(model, {.n_seq_max = 2});
  context.Decode(BatchOf(text, 0, 50));
  context.Remove(0, 20, std::nullopt);
  MLF_EXPECT(context.Count(0) == 20 && context.Positions(0) == Positions({0, 19}));
  context.Decode(BatchOf(text, 20, kLength));
  MLF_EXPECT(SameRow(RowOf(context, -1), expected.back()));
  context.Copy(0, 1, 0, std::nullopt);
  context.Remove(0, 10, 30);  // the copy keeps what goes here
  MLF_EXPECT(context.Count(0) == kLength - 20 && context.Count(1) == kLength);
  MLF_EXPECT(context.Positions(0) == Positions({0, kLength - 1}));
  context.Decode(BatchOf(TinyText(kLength + 1), kLength, kLength + 1, {0}));
  const auto with_hole = RowOf(context, 0);
  context.Decode(BatchOf(TinyText(kLength + 1), kLength, kLength + 1, {1}));
  MLF_EXPECT(SameRow(RowOf(context, 0), Whole(model, TinyText(kLength + 1)).back()));
  MLF_EXPECT(!SameRow(with_hole, RowOf(context, 0)));
  context.Remove(0, 0, 0);
  context.Remove(0, 500, std::nullopt);
  MLF_EXPECT(context.Count(0) == kLength - 19);
}

/// Rotary positions are relative: a whole text at other positions answers the same, but for
/// rounding.
void TestShift(const std::shared_ptr<const Model>& model) {
  const auto text = TinyText(41);
  const std::vector<float> expected = Whole(model, text, {.kv_dtype = kF32}).back();
  for (const int64_t delta : {100, 3, 0}) {
    Context context(model, {.kv_dtype = kF32});
    context.Decode(BatchOf(text, 0, 40));
    context.Shift(0, 0, std::nullopt, delta);
    MLF_EXPECT(context.Positions(0) == Positions({delta, 39 + delta}));
    if (delta == 3) context.Shift(0, 0, 100, -3);
    Batch last;
    last.tokens.push_back({text[40], delta == 3 ? 40 : 40 + delta, {0}, true});
    context.Decode(last);
    double error = 0, norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      error += std::pow(RowOf(context, 0)[i] - expected[i], 2);
      norm += std::pow(expected[i], 2);
    }
    MLF_EXPECT(error <= 1e-8 * norm);  // 1e-4 relative
  }
  Context context(model, {});
  context.Decode(BatchOf(text, 0, 40));
  MLF_EXPECT_THROWS(context.Shift(0, 0, 20, 5), "ValueError", "two entries");
  MLF_EXPECT_THROWS(context.Shift(0, 0, 20, -1), "ValueError", "moves position 0 to -1");
  MLF_EXPECT_THROWS(context.Shift(0, 30, 40, INT32_MAX - 39), "ValueError", "moves position 39");
  MLF_EXPECT_THROWS(context.Shift(0, 0, 20, int64_t{1} << 40), "ValueError", "delta");
  context.Decode(BatchOf(text, 40, 41));
  MLF_EXPECT(SameRow(RowOf(context, 0), Whole(model, text).back()));
}

void TestOptions(const std::shared_ptr<const Model>& model) {
  for (const int64_t value : {int64_t{-1}, int64_t{1} << 31, INT64_MAX, INT64_MIN}) {
    MLF_EXPECT_THROWS(Context(model, {.n_ctx = value}), "ValueError", "n_ctx is");
    MLF_EXPECT_THROWS(Context(model, {.n_seq_max = value}), "ValueError", "n_seq_max is");
    MLF_EXPECT_THROWS(Context(model, {.n_batch = value}), "ValueError", "n_batch is");
  }
  MLF_EXPECT_THROWS(Context(model, {.n_seq_max = 0}), "ValueError", "n_seq_max is 0");
  MLF_EXPECT_THROWS(Context(model, {.n_batch = 0}), "ValueError", "n_batch is 0");
  for (const double value : {-1.0, std::nan(""), HUGE_VAL}) {
    MLF_EXPECT_THROWS(Context(model, {.rope_freq_base = value}), "ValueError", "rope_freq_base");
    MLF_EXPECT_THROWS(Context(model, {.rope_freq_scale = value}), "ValueError", "rope_freq_scale");
  }
  MLF_EXPECT(Context(model, {}).n_ctx() == test::kTinyContext);
  MLF_EXPECT(!SameRow(Whole(model, TinyText(9), {.rope_freq_base = 100}).back(),
                      Whole(model, TinyText(9)).back()));
  MLF_EXPECT(!SameRow(Whole(model, TinyText(9), {.rope_freq_scale = 0.5}).back(),
                      Whole(model, TinyText(9)).back()));
}

}  // namespace
}  // namespace mlf

int main() {
  for (const mlf::Format format : mlf::kFormats) {
    const auto model = mlf::LoadTiny({.format = format}, {.n_threads = 2});
    mlf::TestChunks(model);
    mlf::TestInterleaved(model);
    mlf::TestSharedPrompt(model);
    mlf::TestLogitsRows(model);
    mlf::TestRemove(model);
  }
  const auto model = mlf::LoadTiny();
  mlf::TestShift(model);
  mlf::TestOptions(model);
  return 0;
}
