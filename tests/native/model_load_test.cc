// Tests of src/model's loading: layouts, threads, progress, and files that must be refused.
#include <string>
#include <vector>

#include "check.h"
#include "temp_dir.h"
#include "tiny_model.h"

namespace mlf {
namespace {

using test::BatchOf;
using test::LoadTiny;
using test::Rows;
using test::RowsOf;
using test::SameRows;
using test::TempDir;
using test::TinyFile;
using test::TinyOptions;
using test::TinyText;
using test::WriteTiny;

Rows AllLogits(std::shared_ptr<const Model> model) {
  Context context(std::move(model), {});
  const auto text = TinyText(40);
  context.Decode(BatchOf(text, 0, 40));
  return RowsOf(context);
}

/// How the weights lie in memory and how many threads run must not change a bit.
void TestOptionsGiveSameBits() {
  for (const Format format : {Format::kF32, Format::kQ8_0, Format::kQ4_1}) {
    const TinyOptions tiny{.format = format};
    const Rows expected = AllLogits(LoadTiny(tiny));
    MLF_EXPECT(expected.size() == 40 && expected[0].size() == test::kTinyRows);
    MLF_EXPECT(expected[0] != expected[1]);
    for (const bool repack : {false, true}) {
      for (const bool mmap : {false, true}) {
        for (const int n_threads : {0, 1, 2}) {
          const auto model =
              LoadTiny(tiny, {.n_threads = n_threads, .repack = repack, .mmap = mmap});
          MLF_EXPECT(model->n_threads() == n_threads);
          MLF_EXPECT(SameRows(AllLogits(model), expected));
        }
      }
    }
  }
}

void TestConfig() {
  const auto model = LoadTiny();
  const ModelConfig& c = model->config();
  MLF_EXPECT(c.architecture == "llama" && c.name == "tiny");
  MLF_EXPECT(c.n_layers == 2 && c.n_embd == 64 && c.n_heads == 4 && c.n_kv_heads == 2);
  MLF_EXPECT(c.head_dim == 16 && c.n_ff == 96 && c.n_vocab == test::kTinyRows);
  MLF_EXPECT(c.n_ctx_train == test::kTinyContext && c.rope_dims == 16 && c.rope_interleaved);
  MLF_EXPECT(model->vocab()->size() == test::kTinyTokens);
  MLF_EXPECT(model->vocab()->IsEog(test::kTinyEos));
}

void TestFingerprint() {
  const uint64_t print = LoadTiny()->Fingerprint();
  MLF_EXPECT(LoadTiny({}, {.repack = false})->Fingerprint() == print);
  MLF_EXPECT(LoadTiny({.seed = 2})->Fingerprint() != print);
  MLF_EXPECT(LoadTiny({.format = Format::kQ8_0})->Fingerprint() != print);
}

void TestProgress(const TempDir& dir) {
  const std::string path = WriteTiny(dir);
  std::vector<double> seen;
  for (const bool repack : {false, true}) {
    seen.clear();
    const auto note = [&](double fraction) {
      seen.push_back(fraction);
      return true;
    };
    Model::Load(path, {.repack = repack, .progress = note});
    MLF_EXPECT(seen.size() == 2 + 9 * test::kTinyLayers);  // once per tensor
    MLF_EXPECT(seen.front() > 0 && seen.back() == 1);
    for (size_t i = 1; i < seen.size(); ++i) MLF_EXPECT(seen[i] > seen[i - 1]);
  }
  for (size_t stop = 0; stop < seen.size(); ++stop) {  // cancelled at every call
    size_t calls = 0;
    const auto cancel = [&](double) { return calls++ != stop; };
    MLF_EXPECT_THROWS(Model::Load(path, {.progress = cancel}), "RuntimeError", "cancelled");
    MLF_EXPECT(calls == stop + 1);
  }
  const auto fail = [](double) -> bool { TVM_FFI_THROW(KeyError) << "of the callback"; };
  MLF_EXPECT_THROWS(Model::Load(path, {.progress = fail}), "KeyError", "of the callback");
}

void Refused(const TempDir& dir, const TinyOptions& tiny, const char* kind, const char* part) {
  const std::string path = WriteTiny(dir, tiny);
  for (const bool repack : {false, true}) {
    for (const bool mmap : {false, true}) {
      MLF_EXPECT_THROWS(Model::Load(path, {.repack = repack, .mmap = mmap}), kind, part);
    }
  }
}

void TestRefusedTensors(const TempDir& dir) {
  for (const std::string name :
       {"token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight", "blk.0.attn_norm.weight",
        "blk.1.attn_output.weight", "blk.1.ffn_down.weight", "blk.1.ffn_norm.weight"}) {
    const std::string missing = "tensor " + name + " is missing";
    Refused(dir, {.left_out = name}, "ValueError", missing.c_str());
    if (name == "token_embd.weight") continue;  // a longer one is a longer vocabulary
    const std::string wrong = "tensor " + name + " has shape [";
    Refused(dir, {.misshapen = name}, "ValueError", wrong.c_str());
    Refused(dir, {.format = Format::kQ8_0, .misshapen = name}, "ValueError", wrong.c_str());
  }
  Refused(dir, {.extra = "blk.0.attn_sinks.weight"}, "NotImplementedError",
          "1 tensors that this architecture does not use: blk.0.attn_sinks.weight");
  Refused(dir, {.extra = "blk.2.attn_norm.weight"}, "NotImplementedError", "blk.2.attn_norm");
  // A bias that no llama needs is still added when it is there, so its size is checked.
  Refused(dir, {.extra = "blk.0.attn_k.bias"}, "ValueError",
          "blk.0.attn_k.bias has shape [64], expected [32]");
}

void TestRefusedMetadata(const TempDir& dir) {
  Refused(dir, {.architecture = "lhama"}, "NotImplementedError", "lhama");
  Refused(dir, {.architecture = "qwen2"}, "ValueError", "blk.0.attn_q.bias is missing");
  Refused(dir, {.n_heads = 3}, "ValueError", "3 heads are not a multiple of 2");
  Refused(dir, {.n_heads = 0}, "ValueError", "llama.attention.head_count is 0");
  Refused(dir, {.n_heads = 8}, "ValueError", "blk.0.attn_k.weight has shape [32, 64]");
}

/// Every prefix of the file is refused with a typed error. Metadata is cut at every 97th byte, the
/// tensors' data at every 4999th.
void TestTruncated(const TempDir& dir) {
  const std::string bytes = TinyFile({.format = Format::kQ8_0}).Bytes();
  for (size_t length = 0; length < bytes.size(); length += length < 12000 ? 97 : 4999) {
    const std::string path = dir.Write("cut.gguf", bytes.substr(0, length));
    MLF_EXPECT_THROWS(Model::Load(path, {.mmap = length % 2 == 0}), "ValueError", "cut.gguf");
  }
  const std::string path = dir.Write("cut.gguf", bytes.substr(0, bytes.size() - 1));
  MLF_EXPECT_THROWS(Model::Load(path, {}), "ValueError", "cut.gguf");
  MLF_EXPECT(Model::Load(dir.Write("cut.gguf", bytes), {}) != nullptr);
  MLF_EXPECT_THROWS(Model::Load(dir.Path("absent.gguf"), {}), "FileNotFoundError", "absent.gguf");
}

void TestClose() {
  const auto model = LoadTiny();
  const auto network = model->network();
  auto context = std::make_shared<Context>(model, ContextOptions{});
  context->Decode(BatchOf(TinyText(3), 0, 3));
  model->Close();
  model->Close();
  MLF_EXPECT_THROWS(model->CheckOpen(), "ValueError", "this Model is closed");
  MLF_EXPECT_THROWS(model->file(), "ValueError", "closed");
  MLF_EXPECT_THROWS(model->Fingerprint(), "ValueError", "closed");
  MLF_EXPECT_THROWS(Context(model, {}), "ValueError", "closed");
  MLF_EXPECT_THROWS(context->Decode(BatchOf(TinyText(4), 3, 4)), "ValueError", "closed");
  MLF_EXPECT_THROWS(context->logits(), "ValueError", "closed");
  MLF_EXPECT_THROWS(context->Shift(0, 0, std::nullopt, 1), "ValueError", "closed");
  MLF_EXPECT(model->config().n_embd == 64 && model->vocab()->size() == test::kTinyTokens);
}

}  // namespace
}  // namespace mlf

int main() {
  const mlf::test::TempDir dir;
  mlf::TestOptionsGiveSameBits();
  mlf::TestConfig();
  mlf::TestFingerprint();
  mlf::TestProgress(dir);
  mlf::TestRefusedTensors(dir);
  mlf::TestRefusedMetadata(dir);
  mlf::TestTruncated(dir);
  mlf::TestClose();
  return 0;
}
