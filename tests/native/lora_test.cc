// Tests of src/model/lora: adapters against merged weights, mixed in batches, and wrong files.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "runtime/context.h"
#include "temp_dir.h"
#include "tiny_adapter.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::AdapterBytes;
using test::AdapterOptions;
using test::BatchOf;
using test::GgufWriter;
using test::LoadAdapter;
using test::LoadTiny;
using test::Rows;
using test::RowsOf;
using test::SameRow;
using test::SameRows;
using test::TempDir;
using test::TinyText;

Rows Decode(const std::shared_ptr<const Model>& model, std::vector<AdapterUse> lora,
            const std::vector<int64_t>& text, int64_t n_batch = 512) {
  Context context(model, {.n_batch = n_batch, .kv_dtype = kF32, .lora = std::move(lora)});
  context.Decode(BatchOf(text, 0, static_cast<int64_t>(text.size())));
  return RowsOf(context);
}

/// The file of a model in F32 with scale * B A added to every matrix that the adapter changes.
std::string Merged(const TempDir& dir, const std::string& model_path,
                   const std::string& adapter_path, double scale) {
  const auto model = Gguf::Open(model_path), adapter = Gguf::Open(adapter_path);
  std::ifstream in(model_path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  const uint8_t* end = nullptr;
  for (const GgufTensor& t : model->tensors()) end = std::max(end, t.data + t.bytes);
  for (const GgufTensor& t : model->tensors()) {
    const GgufTensor *a = adapter->FindTensor(t.name + ".lora_a"),
                     *b = adapter->FindTensor(t.name + ".lora_b");
    if (a == nullptr) continue;
    auto* w = reinterpret_cast<float*>(bytes.data() + bytes.size() - (end - t.data));
    const auto *af = reinterpret_cast<const float*>(a->data),
               *bf = reinterpret_cast<const float*>(b->data);
    const int64_t rows = t.shape[0], cols = t.shape[1], rank = a->shape[0];
    for (int64_t i = 0; i < rows * cols; ++i) {
      double sum = 0;
      for (int64_t r = 0; r < rank; ++r) {
        sum += static_cast<double>(bf[i / cols * rank + r]) * af[r * cols + i % cols];
      }
      w[i] = static_cast<float>(w[i] + scale * sum);
    }
  }
  return dir.Write("merged.gguf", bytes);
}

void TestMerged() {
  const TempDir dir;
  const std::string path = test::WriteTiny(dir);
  const auto model = Model::Load(path, {.n_threads = 1});
  const auto text = TinyText(40);
  for (const float alpha : {16.f, 0.f}) {
    const std::string file =
        dir.Write("adapter.gguf", AdapterBytes(*model, {.rank = 8, .alpha = alpha}));
    const auto adapter = LoraAdapter::Load(file, *model);
    MLF_EXPECT(adapter->n_pairs() == 7 * test::kTinyLayers && adapter->alpha() == alpha);
    const double scale = 0.5 * (alpha == 0 ? 1 : alpha / 8);
    const auto merged = Model::Load(Merged(dir, path, file, scale), {.n_threads = 1});
    const Rows got = Decode(model, {{adapter, 0.5}}, text), want = Decode(merged, {}, text),
               plain = Decode(model, {}, text);
    for (size_t i = 0; i < got.size(); ++i) {
      double error = 0, change = 0, norm = 0;
      for (size_t j = 0; j < got[i].size(); ++j) {
        error += std::pow(got[i][j] - want[i][j], 2);
        change += std::pow(plain[i][j] - want[i][j], 2);
        norm += std::pow(want[i][j], 2);
      }
      MLF_EXPECT(error <= 1e-8 * norm && change > 1e-2 * norm);  // 1e-4 relative
    }
  }
}

/// A batch of sequences, each with adapters of its own, and what each gives alone in a context.
void TestMixed(Format format, int threads) {
  const auto model = LoadTiny({.format = format, .tied = false}, {.n_threads = threads});
  const int64_t rank = InfoOf(format).block == 1 ? 5 : 32;
  const auto x = LoadAdapter(*model, {.format = format, .seed = 1, .rank = rank}),
             y = LoadAdapter(*model, {.format = format, .seed = 2, .rank = rank, .alpha = 3});
  const std::vector<std::vector<AdapterUse>> uses = {
      {}, {{x, 1}}, {{y, 0.5}}, {{x, 2}}, {{x, 1}, {y, 1}}, {{y, 1}, {x, 1}}, {{x, 3}, {y, 1}}};
  const auto n = static_cast<int64_t>(uses.size());
  KvCache cache(model->config(), 64 * n, n, kF32);
  const Workspace workspace(model->config(), 64 * n);
  const ModelConfig& c = model->config();
  Step step;
  std::vector<Rows> got(n);
  const ThreadLimit limit(threads);
  for (int64_t begin = 0; begin < 20; begin += 5) {  // chunks, tokens of all sequences in turn
    step.Clear();
    std::vector<int64_t> output_of;
    for (int64_t p = begin; p < begin + 5; ++p) {
      for (int64_t seq = 0; seq < n; ++seq) {
        const bool output = (p + seq) % 2 == 0;
        step.Add(cache, seq, static_cast<int32_t>(TinyText(20, seq)[p]), static_cast<int32_t>(p),
                 output);
        for (const AdapterUse& use : uses[seq]) {
          step.Adapt(*use.adapter, static_cast<float>(use.scale));
        }
        if (output) output_of.push_back(seq);
      }
    }
    const ForwardBatch batch = step.Views(cache);
    std::vector<float> logits(batch.n_outputs() * c.n_vocab);
    model->network()->Forward(batch, cache.layers(), workspace, {c.rope_base, c.rope_freq_scale},
                              {logits.data(), kF32, {batch.n_outputs(), c.n_vocab}});
    for (size_t i = 0; i < output_of.size(); ++i) {
      const float* row = logits.data() + static_cast<int64_t>(i) * c.n_vocab;
      got[output_of[i]].emplace_back(row, row + c.n_vocab);
    }
  }
  for (int64_t seq = 0; seq < n; ++seq) {
    Rows want;
    const Rows all = Decode(model, uses[seq], TinyText(20, seq));
    for (int64_t p = seq % 2; p < 20; p += 2) want.push_back(all[p]);
    MLF_EXPECT(SameRows(got[seq], want));
    MLF_EXPECT(SameRows(all, Decode(model, uses[seq], TinyText(20, seq), /*n_batch=*/3)));
    if (seq > 0) MLF_EXPECT(!SameRow(want[0], Decode(model, {}, TinyText(20, seq))[seq % 2]));
  }
}

void TestStates() {
  const TempDir dir;
  const auto model = LoadTiny();
  const auto x = LoadAdapter(*model), y = LoadAdapter(*model, {.seed = 2});
  MLF_EXPECT(x->fingerprint() != y->fingerprint());
  MLF_EXPECT(x->fingerprint() != LoadAdapter(*model, {.alpha = 2})->fingerprint());
  MLF_EXPECT(x->fingerprint() == LoadAdapter(*model)->fingerprint());
  Context context(model, {.lora = {{x, 1}}});
  context.Decode(TinyText(10));
  const std::string path = dir.Path("state");
  context.SaveState(path, std::nullopt);
  for (const std::vector<AdapterUse>& other :
       {std::vector<AdapterUse>{}, {{x, 0.5}}, {{y, 1}}, {{x, 1}, {y, 1}}}) {
    Context wrong(model, {.lora = other});
    MLF_EXPECT_THROWS(wrong.LoadState(path, std::nullopt), "ValueError", "was saved by");
    MLF_EXPECT(wrong.Count(0) == 0);
  }
  Context same(model, {.lora = {{LoadAdapter(*model), 1}}});
  same.LoadState(path, std::nullopt);
  MLF_EXPECT(same.Count(0) == 10);
}

/// Every check refuses, and says what is wrong.
void TestRejects() {
  const auto model = LoadTiny();
  const auto rejects = [&](const char* kind, const char* part, const AdapterOptions& options) {
    MLF_EXPECT_THROWS(LoadAdapter(*model, options), kind, part);
  };
  const auto with = [&](const char* kind, const char* part, const std::string& name,
                        std::vector<uint64_t> shape) {
    uint64_t count = 1;
    for (const uint64_t n : shape) count *= n;
    rejects(kind, part, {.more = [&](GgufWriter* writer) {
              writer->Tensor(name, Format::kF32, shape, std::string(count * 4, '\0'));
            }});
  };
  const float inf = std::numeric_limits<float>::infinity();
  rejects("ValueError", "general.type is \"model\", expected \"adapter\"",
          {.general_type = "model"});
  rejects("ValueError", "adapter.type is \"control\", expected \"lora\"", {.type = "control"});
  rejects("ValueError", "general.architecture is \"qwen2\", expected \"llama\"",
          {.architecture = "qwen2"});
  rejects("ValueError", "adapter.lora.alpha is nan", {.alpha = std::nanf("")});
  rejects("ValueError", "adapter.lora.alpha is inf", {.alpha = inf});
  rejects("ValueError", "\"blk.0.attn_q.weight.lora_a\" is without its partner",
          {.left_out = "blk.0.attn_q.weight.lora_b"});
  rejects("ValueError", "\"blk.1.ffn_up.weight.lora_b\" is without its partner",
          {.left_out = "blk.1.ffn_up.weight.lora_a"});
  rejects("ValueError", "expected [rank, cols] with a rank of 1 to 96", {.rank = 97});
  rejects("NotImplementedError", "alora", {.more = [](GgufWriter* writer) {
            writer->Array("adapter.alora.invocation_tokens", std::vector<uint32_t>{1});
          }});
  with("NotImplementedError", "token_embd.weight.lora_a changes the embedding",
       "token_embd.weight.lora_a", {8, 64});
  with("NotImplementedError", "output_norm.weight\" is no half", "output_norm.weight", {64});
  const TempDir dir;
  GgufWriter empty;
  empty.Value("general.type", "adapter").Value("adapter.type", "lora");
  empty.Value("general.architecture", "llama");
  MLF_EXPECT_THROWS(LoraAdapter::Load(dir.Write("empty.gguf", empty.Bytes()), *model), "ValueError",
                    "an adapter without tensors");
  MLF_EXPECT_THROWS(LoraAdapter::Load(dir.Path("none.gguf"), *model), "FileNotFoundError", "none");
  MLF_EXPECT_THROWS(LoraAdapter::Load(test::WriteTiny(dir), *model), "ValueError",
                    "general.type is missing");
}

void TestShapes() {
  const auto model = LoadTiny();
  using Shape = std::vector<uint64_t>;
  const auto load = [&](const std::string& name, const Shape& a, const Shape& b) {
    GgufWriter writer;
    writer.Value("general.type", "adapter").Value("adapter.type", "lora");
    writer.Value("general.architecture", "llama").Value("adapter.lora.alpha", 1.f);
    for (const auto& [half, shape] : {std::pair{".lora_a", a}, {".lora_b", b}}) {
      uint64_t count = 1;
      for (const uint64_t n : shape) count *= n;
      writer.Tensor(name + half, Format::kF32, shape, std::string(count * 4, '\0'));
    }
    const TempDir dir;
    return LoraAdapter::Load(dir.Write("adapter.gguf", writer.Bytes()), *model);
  };
  const std::string up = "blk.0.ffn_up.weight";
  MLF_EXPECT(load(up, {4, 64}, {96, 4})->n_pairs() == 1);
  MLF_EXPECT_THROWS(load(up, {4, 96}, {96, 4}), "ValueError",
                    "has shape [4, 96], expected [4, 64]");
  MLF_EXPECT_THROWS(load(up, {4, 64}, {64, 4}), "ValueError",
                    "has shape [64, 4], expected [96, 4]");
  MLF_EXPECT_THROWS(load(up, {4, 64}, {96, 5}), "ValueError",
                    "has shape [96, 5], expected [96, 4]");
  MLF_EXPECT_THROWS(load(up, {64}, {96, 4}), "ValueError", "has 1 dimensions");
  MLF_EXPECT_THROWS(load("blk.7.ffn_up.weight", {4, 64}, {96, 4}), "ValueError",
                    "changes a matrix that the model does not have");
  MLF_EXPECT_THROWS(load("output.weight", {4, 64}, {304, 4}), "ValueError", "does not have");
}

void TestContextRejects() {
  const auto model = LoadTiny();
  const auto adapter = LoadAdapter(*model);
  for (const double scale : {std::nan(""), HUGE_VAL, 1e300}) {
    MLF_EXPECT_THROWS(Context(model, {.lora = {{adapter, scale}}}), "ValueError",
                      "the scale of an adapter in lora is");
  }
  Context(LoadTiny({.seed = 2}), {.lora = {{adapter, 1}}});  // other weights of the same shapes
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestMerged();
  for (const int threads : {1, 2}) {
    mlf::TestMixed(mlf::Format::kF32, threads);
    mlf::TestMixed(mlf::Format::kQ8_0, threads);
    mlf::TestMixed(mlf::Format::kQ4_1, threads);
  }
  mlf::TestStates();
  mlf::TestRejects();
  mlf::TestShapes();
  mlf::TestContextRejects();
  return 0;
}
