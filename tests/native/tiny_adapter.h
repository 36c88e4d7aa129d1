// A LoRA adapter for the model of tiny_model.h, written by the test that uses it.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "gguf_writer.h"
#include "model/lora.h"
#include "temp_dir.h"
#include "tiny_model.h"

namespace mlf::test {

/// What a test may change of the file before it is written.
struct AdapterOptions {
  Format format = Format::kF32;
  uint64_t seed = 1;
  int64_t rank = 8;
  float alpha = 16;
  std::string general_type = "adapter", type = "lora", architecture = "llama";
  std::string left_out{};  // of its tensors
  /// Adds to the file, or nothing.
  std::function<void(GgufWriter*)> more{};
};

/// A pair for each matrix but the embedding.
inline std::string AdapterBytes(const Model& model, const AdapterOptions& o) {
  GgufWriter writer;
  writer.Value("general.type", o.general_type).Value("adapter.type", o.type);
  writer.Value("general.architecture", o.architecture).Value("adapter.lora.alpha", o.alpha);
  uint64_t seed = o.seed * 1000;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    ++seed;
    if (name == o.left_out) return;
    writer.Tensor(name, o.format, {static_cast<uint64_t>(rows), static_cast<uint64_t>(cols)},
                  RandomWeights(o.format, rows * cols, 0.3, seed));
  };
  for (const MatrixInfo& m : model.matrices()) {
    if (m.name == "token_embd.weight") continue;
    matrix(m.name + ".lora_a", o.rank, m.cols);
    matrix(m.name + ".lora_b", m.rows, o.rank);
  }
  if (o.more) o.more(&writer);
  return writer.Bytes();
}

inline std::shared_ptr<const LoraAdapter> LoadAdapter(const Model& model,
                                                      const AdapterOptions& options = {}) {
  const TempDir dir;
  return LoraAdapter::Load(dir.Write("adapter.gguf", AdapterBytes(model, options)), model);
}

}  // namespace mlf::test
