// Tests of src/runtime with several threads, most of all for ThreadSanitizer: contexts side by
// side, one context wanted by two, a model closed under a decode.
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "runtime/context.h"
#include "runtime/generation.h"
#include "temp_dir.h"
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

constexpr int kThreads = 4;

void InThreads(int count, const std::function<void(int)>& run) {
  std::vector<std::thread> threads;
  std::atomic<int> ready{0};
  for (int t = 0; t < count; ++t) {
    threads.emplace_back([&, t] {
      ++ready;
      while (ready.load() < count) std::this_thread::yield();  // all begin together
      run(t);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// Logits of a text in chunks, each thread another text.
Rows Decode(const std::shared_ptr<const Model>& model, int thread) {
  Context context(model, {.n_ctx = 64, .n_batch = 16});
  const auto text = TinyText(40, thread);
  Rows rows;
  for (int64_t i = 0; i < 40; i += 8) {
    context.Decode(BatchOf(text, i, i + 8));
    for (const auto& row : RowsOf(context)) rows.push_back(row);
  }
  return rows;
}

void TestSideBySide() {
  for (const Format format : {Format::kF32, Format::kQ8_0, Format::kQ4_1}) {
    const auto model = LoadTiny({.format = format}, {.n_threads = 0});
    std::vector<Rows> expected, rows(kThreads);
    for (int t = 0; t < kThreads; ++t) expected.push_back(Decode(model, t));
    InThreads(kThreads, [&](int t) {
      for (int times = 0; times < 3; ++times) rows[t] = Decode(model, t);
    });
    for (int t = 0; t < kThreads; ++t) MLF_EXPECT(SameRows(rows[t], expected[t]));
  }
}

void TestLoadSideBySide() {
  const test::TempDir dir;
  const std::string path = test::WriteTiny(dir, {.format = Format::kQ8_0});
  const Rows expected = Decode(Model::Load(path, {}), 0);
  std::atomic<int> right{0};
  InThreads(kThreads, [&](int t) {
    right += SameRows(Decode(Model::Load(path, {.repack = t % 2 == 0}), 0), expected);
  });
  MLF_EXPECT(right.load() == kThreads);
}

/// True when it ran, false when another thread was there; anything else is a failure.
bool Try(const std::function<void()>& call) {
  try {
    call();
    return true;
  } catch (const tvm::ffi::Error& e) {
    MLF_EXPECT(e.kind() == "RuntimeError");
    MLF_EXPECT(e.message().find("in use by another thread") != std::string::npos);
    return false;
  }
}

void Insist(const std::function<void()>& call) {
  while (!Try(call)) std::this_thread::yield();
}

/// Every decode either runs whole or is refused, so the sequence holds what ran.
void TestOneContext() {
  const auto model = LoadTiny({}, {.n_threads = 2});
  Context context(model, {.n_ctx = 256, .n_seq_max = 2});
  std::atomic<int64_t> ran{0}, refused{0};
  InThreads(2, [&](int) {
    for (int times = 0; times < 60; ++times) {
      const bool mine = Try([&] { context.Decode(std::vector<int64_t>{7, 8}); });
      (mine ? ran : refused) += 1;
    }
  });
  MLF_EXPECT(ran.load() > 0 && ran.load() + refused.load() == 120);
  MLF_EXPECT(context.Count(0) == 2 * ran.load());
  Context fresh(model, {});
  for (int64_t i = 0; i < ran.load(); ++i) fresh.Decode(std::vector<int64_t>{7, 8});
  context.Decode(std::vector<int64_t>{9});
  fresh.Decode(std::vector<int64_t>{9});
  MLF_EXPECT(SameRow(RowOf(context, 0), RowOf(fresh, 0)));
}

/// Clears and decodes, with other numbers of rows each time, so that the logits' memory moves.
void Write(Context& context, const std::vector<int64_t>& text, const std::atomic<bool>& seen) {
  for (int times = 0; times < 150 || !seen.load(); ++times) {
    std::this_thread::yield();
    Insist([&] { context.Clear(); });
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 2}, {2, 7}, {7, 8}}) {
      Insist([&, b = begin, e = end] { context.Decode(BatchOf(text, b, e)); });
    }
  }
}

/// Every row that another thread gets is one of `expected`, however late it is read. What was seen
/// goes into `held` and is freed there: ThreadSanitizer does not know the fence by which tvm-ffi
/// orders the last reference after the others.
void Read(const Context& context, const Rows& expected, std::vector<ffi::Tensor>& held) {
  const ffi::Tensor logits = context.logits();
  if (held.empty() || !held.back().same_as(logits)) held.push_back(logits);
  std::this_thread::yield();
  for (int64_t i = 0; i < logits.size(0); ++i) {
    const std::span<const float> row = LogitsRow(logits, i);
    bool known = false;
    for (const auto& one : expected) known = known || SameRow({row.begin(), row.end()}, one);
    MLF_EXPECT(known);
  }
}

/// All calls of one context against each other: a caller that got logits keeps them.
void TestEveryCall() {
  const auto model = LoadTiny();
  Context context(model, {.n_ctx = 64, .n_seq_max = 2});
  Context fresh(model, {});
  const auto text = TinyText(8);
  fresh.Decode(BatchOf(text, 0, 8));
  const Rows expected = RowsOf(fresh);
  std::atomic<bool> seen{false}, stop{false};
  std::vector<ffi::Tensor> held;
  const test::TempDir dir;
  const auto look = [&](int thread) {
    if (thread == 1) {
      Read(context, expected, held);
      return seen.store(true);
    }
    context.Count(0);
    context.Copy(0, 1, 100, std::nullopt);
    context.SaveState(dir.Path("state"), 1);
  };
  InThreads(3, [&](int t) {
    if (t == 0) {
      Write(context, text, seen);
      stop.store(true);
    }
    while (!stop.load()) {
      try {
        look(t);
      } catch (const tvm::ffi::Error& e) {  // in use, or nothing decoded
        MLF_EXPECT(e.kind() == "RuntimeError");
      }
    }
  });
  context.Clear();
  context.Decode(BatchOf(text, 0, 8));
  MLF_EXPECT(SameRows(RowsOf(context), expected));
}

/// Two threads that take turns at one generation get its pieces between them.
void TestOneGeneration() {
  const auto model = LoadTiny();
  const auto sampler = std::make_shared<Sampler>();
  sampler->Add(LogitBiasStage{{{test::kTinyEos, -1e30}}});
  const auto context = std::make_shared<Context>(model, ContextOptions{});
  Generation generation(context, sampler, TinyText(5), 60, {});
  InThreads(2, [&](int) {
    for (bool more = true; more;) {
      if (!Try([&] { more = generation.Next().has_value(); })) std::this_thread::yield();
      Try([&] { MLF_EXPECT(generation.tokens().size() <= 60); });
    }
  });
  MLF_EXPECT(generation.tokens().size() == 60);
}

/// Whoever closes a model ends its contexts between two passes, never inside one.
void TestClose() {
  for (int times = 0; times < 15; ++times) {
    const auto model = LoadTiny({}, {.n_threads = 2, .repack = times % 2 == 0});
    const Rows expected = Decode(model, 0);
    std::atomic<int> decoding{0};
    InThreads(3, [&](int t) {
      if (t == 0) {
        while (decoding.load() < 2 + times) std::this_thread::yield();
        model->Close();
        return;
      }
      try {
        for (;;) {
          const Rows rows = Decode(model, 0);
          ++decoding;
          MLF_EXPECT(SameRows(rows, expected));
        }
      } catch (const tvm::ffi::Error& e) {
        MLF_EXPECT(e.kind() == "ValueError");
        MLF_EXPECT(e.message().find("closed") != std::string::npos);
      }
    });
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestSideBySide();
  mlf::TestLoadSideBySide();
  mlf::TestOneContext();
  mlf::TestEveryCall();
  mlf::TestOneGeneration();
  mlf::TestClose();
  return 0;
}
