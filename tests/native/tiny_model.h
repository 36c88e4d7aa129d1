// A llama of two layers with random weights, written by the test that uses it.
#pragma once
#include <cmath>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "check.h"
#include "gguf_writer.h"
#include "model/model.h"
#include "runtime/context.h"
#include "temp_dir.h"

namespace mlf::test {

/// The vocabulary is a little smaller than the embedding, as padded files have it: control tokens,
/// 256 bytes, then letters alone and after a space.
inline constexpr int64_t kTinyLayers = 2, kTinyEmbd = 64, kTinyHeads = 4, kTinyKvHeads = 2,
                         kTinyFf = 96, kTinyTokens = 300, kTinyRows = 304, kTinyContext = 256;
inline constexpr int64_t kTinyEos = 2, kTinyFirstByte = 3, kTinyFirstLetter = 259;

inline std::vector<std::string> TinyTokens() {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    tokens.emplace_back(name);
  }
  for (char c = 'a'; c <= 'z'; ++c) tokens.emplace_back(1, c);
  for (char c = 'a'; tokens.size() < static_cast<size_t>(kTinyTokens); ++c) {
    tokens.emplace_back("\xE2\x96\x81");  // the space
    tokens.back() += c;
  }
  return tokens;
}

inline std::string HalfBytes(double value) {
  return GgufBytes(F16::From(static_cast<float>(value)).bits);
}

/// One block of `format` with weights of about `size`.
inline std::string RandomBlock(Format format, double size, uint64_t seed, uint64_t counter) {
  const auto random = [&](uint64_t i) { return RandomBits(seed, counter * 64 + i); };
  if (format == Format::kF32) {
    return GgufBytes(static_cast<float>(size * (2 * RandomUniform(seed, counter) - 1)));
  }
  const double scale = 0.5 + static_cast<double>(random(40) >> 11) * 0x1p-53;
  std::string block;
  if (format == Format::kQ8_0) block = HalfBytes(size * scale / 127);
  if (format == Format::kQ4_1) block = HalfBytes(size * scale / 8) + HalfBytes(-size * scale);
  for (int64_t i = 0; static_cast<int64_t>(block.size()) < InfoOf(format).block_bytes; ++i) {
    block += static_cast<char>(random(i));
  }
  return block;
}

inline std::string RandomWeights(Format format, int64_t count, double size, uint64_t seed) {
  std::string bytes;
  for (int64_t i = 0; i < count / InfoOf(format).block; ++i) {
    bytes += RandomBlock(format, size, seed, i);
  }
  return bytes;
}

/// What a test may change of the file before it is written.
struct TinyOptions {
  Format format = Format::kF32;
  uint64_t seed = 1;
  std::string architecture = "llama", left_out{}, misshapen{}, extra{};  // names of tensors
  int64_t n_heads = kTinyHeads;
  bool tied = true;  // false: the head is a matrix of its own
};

class TinyFile {
 public:
  explicit TinyFile(const TinyOptions& options) : options_(options) {
    Metadata();
    Matrix("token_embd.weight", kTinyRows, kTinyEmbd, 1.5);
    if (!options.tied) Matrix("output.weight", kTinyRows, kTinyEmbd, 1.5);
    Norm("output_norm.weight");
    for (int64_t i = 0; i < kTinyLayers; ++i) Block("blk." + std::to_string(i) + ".");
    if (!options.extra.empty()) Norm(options.extra);
  }
  std::string Bytes() const { return writer_.Bytes(); }

 private:
  void Metadata() {
    const std::string a = options_.architecture + ".";
    writer_.Value("general.architecture", options_.architecture).Value("general.name", "tiny");
    for (const auto& [key, value] : {std::pair<const char*, int64_t>{"block_count", kTinyLayers},
                                     {"embedding_length", kTinyEmbd},
                                     {"feed_forward_length", kTinyFf},
                                     {"context_length", kTinyContext},
                                     {"attention.head_count", options_.n_heads},
                                     {"attention.head_count_kv", kTinyKvHeads}}) {
      writer_.Value(a + key, static_cast<uint32_t>(value));
    }
    std::vector<float> scores;
    std::vector<int32_t> types;
    for (int64_t id = 0; id < kTinyTokens; ++id) {
      scores.push_back(id < kTinyFirstLetter ? 0 : static_cast<float>(-id));
      types.push_back(id == 0 ? 2 : id < kTinyFirstByte ? 3 : id < kTinyFirstLetter ? 6 : 1);
    }
    writer_.Value("tokenizer.ggml.model", "llama").Array("tokenizer.ggml.tokens", TinyTokens());
    writer_.Array("tokenizer.ggml.scores", scores).Array("tokenizer.ggml.token_type", types);
  }

  void Matrix(const std::string& name, int64_t rows, int64_t cols, double size) {
    if (name == options_.left_out) return;
    if (name == options_.misshapen) rows += 1;
    writer_.Tensor(name, options_.format,
                   {static_cast<uint64_t>(rows), static_cast<uint64_t>(cols)},
                   RandomWeights(options_.format, rows * cols, size, NextSeed()));
  }

  void Norm(const std::string& name) {
    if (name == options_.left_out) return;
    const uint64_t count = kTinyEmbd + (name == options_.misshapen ? 1 : 0), seed = NextSeed();
    std::string bytes;
    for (uint64_t i = 0; i < count; ++i) {
      bytes += GgufBytes(static_cast<float>(0.5 + RandomUniform(seed, i)));
    }
    writer_.Tensor(name, Format::kF32, {count}, bytes);
  }

  void Block(const std::string& block) {
    const int64_t kv_dim = kTinyEmbd / kTinyHeads * kTinyKvHeads;
    Norm(block + "attn_norm.weight");
    Matrix(block + "attn_q.weight", kTinyEmbd, kTinyEmbd, 0.5);
    Matrix(block + "attn_k.weight", kv_dim, kTinyEmbd, 0.5);
    Matrix(block + "attn_v.weight", kv_dim, kTinyEmbd, 0.5);
    Matrix(block + "attn_output.weight", kTinyEmbd, kTinyEmbd, 0.5);
    Norm(block + "ffn_norm.weight");
    Matrix(block + "ffn_gate.weight", kTinyFf, kTinyEmbd, 0.5);
    Matrix(block + "ffn_up.weight", kTinyFf, kTinyEmbd, 0.5);
    Matrix(block + "ffn_down.weight", kTinyEmbd, kTinyFf, 0.5);
  }

  uint64_t NextSeed() { return options_.seed * 1000 + ++tensors_; }

  TinyOptions options_;
  GgufWriter writer_;
  uint64_t tensors_ = 0;
};

inline std::string WriteTiny(const TempDir& dir, const TinyOptions& options = {}) {
  return dir.Write("tiny.gguf", TinyFile(options).Bytes());
}

inline std::shared_ptr<const Model> LoadTiny(const TinyOptions& options = {},
                                             const ModelOptions& model = {.n_threads = 1}) {
  const TempDir dir;  // a mapped file may lose its name
  return Model::Load(WriteTiny(dir, options), model);
}

/// Token i of the text that `seed` names.
inline std::vector<int64_t> TinyText(int64_t count, uint64_t seed = 7) {
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int64_t>(RandomBits(seed, i) % kTinyTokens));
  }
  return tokens;
}

using Rows = std::vector<std::vector<float>>;

inline std::vector<float> RowOf(const Context& context, int64_t index) {
  const ffi::Tensor logits = context.logits();
  const std::span<const float> row = LogitsRow(logits, index);
  return {row.begin(), row.end()};
}

inline Rows RowsOf(const Context& context) {
  Rows rows;
  for (int64_t i = 0; i < context.logits().size(0); ++i) rows.push_back(RowOf(context, i));
  return rows;
}

/// Equal bit for bit, and numbers.
inline bool SameRow(const std::vector<float>& a, const std::vector<float>& b) {
  for (const float value : a) {
    if (!std::isfinite(value)) return false;
  }
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline bool SameRows(const Rows& a, const Rows& b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i) same = SameRow(a[i], b[i]);
  return same;
}

/// Tokens [begin, end) of `text` at the same positions of `sequences`, logits of each.
inline Batch BatchOf(const std::vector<int64_t>& text, int64_t begin, int64_t end,
                     const std::vector<int64_t>& sequences = {0}) {
  Batch batch;
  for (int64_t i = begin; i < end; ++i) batch.tokens.push_back({text[i], i, sequences, true});
  return batch;
}

}  // namespace mlf::test
