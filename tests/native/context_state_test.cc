// Tests of src/runtime/state_file: states come back bit for bit, and wrong files change nothing.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "check.h"
#include "kernels/attention.h"
#include "runtime/context.h"
#include "temp_dir.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::BatchOf;
using test::LoadTiny;
using test::RowOf;
using test::SameRow;
using test::TempDir;
using test::TinyText;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Logits of one more token of each sequence, which is then taken back.
std::vector<float> Probe(Context& context, int64_t seq) {
  const auto range = context.Positions(seq);
  const int64_t position = range ? range->second + 1 : 0;
  Batch batch;
  batch.tokens.push_back({5, position, {seq}, true});
  context.Decode(batch);
  const auto row = RowOf(context, 0);
  context.Remove(seq, position, std::nullopt);
  return row;
}

/// Sequence 0 with a hole, 1 shared with it in part, 2 shifted so that later entries have lower
/// positions, 3 empty.
void FillSequences(Context& context) {
  context.Decode(BatchOf(TinyText(70), 0, 70, {0}));
  context.Copy(0, 1, 0, 40);
  context.Decode(BatchOf(TinyText(50, 3), 40, 50, {1}));
  context.Remove(0, 20, 35);
  context.Decode(BatchOf(TinyText(30, 4), 0, 30, {2}));
  context.Shift(2, 0, 10, 100);
}

void TestRoundTrip(const TempDir& dir, Format format, DLDataType kv) {
  const auto model = LoadTiny({.format = format});
  const ContextOptions options{.n_ctx = 192, .n_seq_max = 4, .kv_dtype = kv};
  Context context(model, options), other(model, options);
  FillSequences(context);
  const std::string all = dir.Path("all.state");
  context.SaveState(all, std::nullopt);
  MLF_EXPECT(!std::filesystem::exists(all + ".part"));
  other.Decode(BatchOf(TinyText(60, 9), 0, 60, {0, 3}));  // what a load replaces
  other.LoadState(all, std::nullopt);
  MLF_EXPECT_THROWS(other.logits(), "RuntimeError", "nothing has been decoded");
  for (const int64_t seq : {0, 1, 2, 3}) {
    MLF_EXPECT(context.Positions(seq) == other.Positions(seq));
    MLF_EXPECT(context.Count(seq) == other.Count(seq));
    MLF_EXPECT(SameRow(Probe(context, seq), Probe(other, seq)));
  }
  const std::string one = dir.Path("one.state");
  for (const int64_t seq : {0, 1, 2, 3}) {  // each into another sequence of another context
    context.SaveState(one, seq);
    other.LoadState(one, (seq + 1) % 4);
    MLF_EXPECT(SameRow(Probe(other, (seq + 1) % 4), Probe(context, seq)));
  }
}

/// Eight sequences over ten pages, which would need sixteen if each had its own.
void TestSharedPages(const TempDir& dir) {
  const auto model = LoadTiny();
  const ContextOptions options{.n_ctx = 64, .n_seq_max = 8};
  Context context(model, options), other(model, options);
  const auto text = TinyText(64);
  context.Decode(BatchOf(text, 0, 40, {0}));
  for (int64_t seq = 1; seq < 8; ++seq) context.Copy(0, seq, 0, std::nullopt);
  for (int64_t seq = 0; seq < 8; ++seq) {  // into a page of its own
    context.Decode(BatchOf(TinyText(64, seq), 40, 45, {seq}));
  }
  const std::string path = dir.Path("shared.state"), again = dir.Path("again.state");
  context.SaveState(path, std::nullopt);
  for (int64_t seq = 0; seq < 2; ++seq) {  // what is there before makes no difference
    other.LoadState(path, std::nullopt);
    other.SaveState(again, std::nullopt);
    MLF_EXPECT(ReadFile(path) == ReadFile(again));
  }
  for (int64_t seq = 0; seq < 8; ++seq) {
    MLF_EXPECT(other.Count(seq) == 45);
    MLF_EXPECT(SameRow(Probe(context, seq), Probe(other, seq)));
  }
}

void TestForeign(const TempDir& dir) {
  const auto model = LoadTiny();
  Context context(model, {.n_ctx = 64, .n_seq_max = 2});
  context.Decode(BatchOf(TinyText(40), 0, 40, {0}));
  const std::string path = dir.Path("a.state");
  context.SaveState(path, std::nullopt);
  const auto refused = [&](std::shared_ptr<const Model> by, const ContextOptions& options,
                           std::optional<int64_t> seq, const char* part) {
    Context other(std::move(by), options);
    MLF_EXPECT_THROWS(other.LoadState(path, seq), "ValueError", part);
    MLF_EXPECT(other.Count(0) == 0);
  };
  refused(LoadTiny({.seed = 2}), {.n_seq_max = 2}, std::nullopt, "was saved by \"llama/tiny/2/");
  refused(LoadTiny({.format = Format::kQ8_0}), {.n_seq_max = 2}, std::nullopt, "was saved by");
  refused(model, {.n_seq_max = 2, .kv_dtype = kF32}, std::nullopt, "this context is");
  refused(model, {.n_seq_max = 1}, std::nullopt, "sequence 1 is out of range");
  refused(model, {.n_ctx = 39, .n_seq_max = 2}, std::nullopt, "40 entries do not fit n_ctx=39");
  refused(model, {.n_seq_max = 2}, 0, "holds 2 sequences, expected one");
  MLF_EXPECT_THROWS(context.LoadState(dir.Path("absent"), 0), "FileNotFoundError", "absent");
  MLF_EXPECT_THROWS(context.SaveState(dir.Path("no/folder"), 0), "FileNotFoundError", "no/folder");
}

/// Another sequence may hold the pages that a state needs: then nothing is replaced.
void TestNoRoom(const TempDir& dir) {
  const auto model = LoadTiny();
  const ContextOptions options{.n_ctx = 64, .n_seq_max = 3};  // five pages
  const auto text = TinyText(64);
  const std::string path = dir.Path("full.state");
  Context context(model, options), other(model, options);
  context.Decode(BatchOf(text, 0, 64, {0}));
  context.Decode(BatchOf(text, 0, 33, {1}));
  context.SaveState(path, 0);
  other.Decode(BatchOf(text, 0, 64, {1}));
  other.Decode(BatchOf(text, 0, 64, {2}));
  other.Decode(BatchOf(text, 0, 9, {0}));
  MLF_EXPECT_THROWS(other.LoadState(path, 0), "RuntimeError", "is full");
  MLF_EXPECT(other.Count(0) == 9 && other.Count(1) == 64 && other.Count(2) == 64);
  other.Decode(BatchOf(text, 9, 31, {0}));
  context.Remove(0, 31, std::nullopt);
  MLF_EXPECT(SameRow(Probe(other, 0), Probe(context, 0)));
  other.LoadState(path, 1);  // in place of what lies there
  MLF_EXPECT(other.Count(1) == 64);
}

struct Fixture {
  explicit Fixture(const TempDir& dir)
      : model(LoadTiny()), context(model, options), path(dir.Path("good.state")) {
    context.Decode(BatchOf(TinyText(12), 0, 12, {0}));
    context.Decode(BatchOf(TinyText(5), 0, 5, {1}));
    context.SaveState(path, std::nullopt);
    bytes = ReadFile(path);
  }

  ContextOptions options{.n_ctx = 64, .n_seq_max = 2, .n_batch = 16};
  std::shared_ptr<const Model> model;
  Context context;
  std::string path, bytes;
};

void TestTruncated(const TempDir& dir) {
  Fixture f(dir);
  const auto expected = Probe(f.context, 0);
  Context other(f.model, f.options);
  other.Decode(BatchOf(TinyText(12), 0, 12, {0}));
  for (size_t length = 0; length < f.bytes.size(); length += 7) {
    const std::string path = dir.Write("cut.state", f.bytes.substr(0, length));
    MLF_EXPECT_THROWS(other.LoadState(path, std::nullopt), "ValueError", "load_state: ");
    MLF_EXPECT(other.Count(0) == 12 && other.Count(1) == 0);
  }
  MLF_EXPECT(SameRow(Probe(other, 0), expected));
}

/// Wrong bytes anywhere give an error or other numbers, never a crash, and neither outlives Clear.
void TestMutated(const TempDir& dir) {
  Fixture f(dir);
  Context fresh(f.model, f.options), other(f.model, f.options);
  fresh.Decode(BatchOf(TinyText(20), 0, 20));
  const auto expected = RowOf(fresh, -1);
  int loaded = 0;
  for (uint64_t times = 0; times < 500; ++times) {
    std::string bytes = f.bytes;
    const uint64_t changes = 1 + RandomBits(times, 0) % 4;
    for (uint64_t i = 1; i <= changes; ++i) {  // every other one in the header and first entries
      const uint64_t bits = RandomBits(times, i), end = i % 2 ? 400 : bytes.size();
      const uint64_t special[] = {0, 0xFF, 0x7F, bits >> 40};  // 0x7F: infinities and NaN
      bytes[(bits >> 8) % end] = static_cast<char>(special[bits % 4]);
    }
    try {
      other.LoadState(dir.Write("wrong.state", bytes), std::nullopt);
      ++loaded;
      Probe(other, 0);
    } catch (const tvm::ffi::Error& e) {
      const std::string kind = e.kind();
      MLF_EXPECT(kind == "ValueError" || kind == "RuntimeError");
    }
    if (times % 10 != 0) continue;
    other.Clear();
    other.Decode(BatchOf(TinyText(20), 0, 20));
    MLF_EXPECT(SameRow(RowOf(other, -1), expected));
  }
  MLF_EXPECT(loaded > 50 && loaded < 450);
}

/// Lying counts and indices, each at its place in the file.
void TestLies(const TempDir& dir) {
  Fixture f(dir);
  uint32_t signature;
  std::memcpy(&signature, f.bytes.data() + 12, sizeof signature);
  const size_t pages = 16 + signature, position = pages + 4;
  // The tail: sequences, and of both id, pages and the number of the one page.
  const size_t sequences = f.bytes.size() - 28, id = sequences + 4, count = id + 4, row = count + 4;
  const auto refused = [&](size_t at, uint32_t lie, const char* part,
                           const char* kind = "ValueError") {
    std::string bytes = f.bytes;
    std::memcpy(bytes.data() + at, &lie, sizeof lie);
    const std::string path = dir.Write("lie.state", bytes);
    MLF_EXPECT_THROWS(f.context.LoadState(path, std::nullopt), kind, part);
    MLF_EXPECT(f.context.Count(0) == 12 && f.context.Count(1) == 5);
  };
  refused(0, 0, "is not a state file");
  refused(8, 1, "is a state file of version 1, expected version 3");
  refused(12, UINT32_MAX, "was saved by");
  refused(12, signature - 1, "was saved by");
  for (const uint32_t lie : {1000u, UINT32_MAX}) refused(pages, lie, "truncated");
  for (const uint32_t lie : {1u, 0x7FFFFFFFu, 0xFFFFFFFEu}) {  // another entry's, or none
    refused(position, lie, "positions");
  }
  refused(sequences, 1, "a page of no sequence");
  for (const uint32_t lie : {3u, UINT32_MAX}) refused(sequences, lie, "truncated");
  for (const uint32_t lie : {2u, UINT32_MAX}) refused(id, lie, "is out of range");
  refused(id, 1, "sequence 1 twice");
  for (const uint32_t lie : {3u, UINT32_MAX}) refused(count, lie, "a page twice");
  for (const uint32_t lie : {2u, UINT32_MAX}) refused(row, lie, "a page that is not there");
  refused(row, 1, "a page of no sequence");
  const std::string longer = dir.Write("longer.state", f.bytes + std::string(1, '\0'));
  MLF_EXPECT_THROWS(f.context.LoadState(longer, std::nullopt), "ValueError", "more than its seq");
  std::string empty = f.bytes;
  std::memset(empty.data() + position, 0xFF, kPageSize * sizeof(int32_t));
  const std::string path = dir.Write("empty.state", empty);
  MLF_EXPECT_THROWS(f.context.LoadState(path, std::nullopt), "ValueError", "without entries");
}

}  // namespace
}  // namespace mlf

int main() {
  const mlf::test::TempDir dir;
  mlf::TestRoundTrip(dir, mlf::Format::kF32, mlf::kF32);
  mlf::TestRoundTrip(dir, mlf::Format::kQ8_0, mlf::kF16);
  mlf::TestSharedPages(dir);
  mlf::TestForeign(dir);
  mlf::TestNoRoom(dir);
  mlf::TestTruncated(dir);
  mlf::TestMutated(dir);
  mlf::TestLies(dir);
  return 0;
}
