// Weights: from the file's bytes to what kernels take. Counterpart: weights.cc.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/array.h"
#include "base/buffer.h"
#include "io/gguf.h"
#include "quant/formats.h"

namespace mlf {

/// A [rows, cols] matrix in one of the layouts of kernels/linear.h: tiled and owned, or the file's
/// own bytes.
struct Weight {
  Format format{};
  int64_t rows = 0, cols = 0;
  Buffer tiled;
  const uint8_t* file = nullptr;
  int64_t index = -1;  // among the matrices of its loader

  ArrayView view() const;  // uint8, 1-D when tiled, else [rows, row_bytes]
};

/// A matrix that a loader gave out, by Weight::index.
struct MatrixInfo {
  std::string name;
  int64_t rows, cols;

  bool operator==(const MatrixInfo&) const = default;
};

/// A float32 vector; empty when the file has none.
struct Vector {
  Buffer data;
  int64_t size = 0;

  ArrayView view() const { return {data.data(), kF32, {size}}; }
};

struct LoadOptions {
  bool repack =
      true;  // tile matrices once; false keeps the file's pages, which processes then share
  std::function<bool(double)> progress;  // gets the fraction done; false cancels
};

/// Takes tensors out of a file one by one, checks each and keeps count. After the last one,
/// Finish() refuses a file with tensors that nobody took: computing without them would give wrong
/// answers in silence.
class WeightLoader {
 public:
  WeightLoader(std::shared_ptr<const Gguf> file, LoadOptions options);

  /// Weights that stay in the file's layout point into it.
  const std::shared_ptr<const Gguf>& file() const { return file_; }
  bool Has(const std::string& name) const { return file_->FindTensor(name) != nullptr; }

  /// A matrix for multiplication. ValueError when it is missing or its shape is not [rows, cols].
  Weight Matrix(const std::string& name, int64_t rows, int64_t cols);
  /// A table that is only looked up: stays where it is in the file.
  Weight Table(const std::string& name, int64_t rows, int64_t cols);
  /// A float vector, converted to float32.
  Vector Values(const std::string& name, int64_t size);
  Vector OptionalValues(const std::string& name, int64_t size);

  /// All matrices and tables so far.
  const std::vector<MatrixInfo>& matrices() const { return matrices_; }

  void Finish() const;

 private:
  const GgufTensor& Take(const std::string& name, std::initializer_list<int64_t> shape);
  int64_t Number(const std::string& name, int64_t rows, int64_t cols);
  void Report(int64_t bytes);

  std::shared_ptr<const Gguf> file_;
  LoadOptions options_;
  std::unordered_set<std::string> taken_;
  std::vector<MatrixInfo> matrices_;
  int64_t total_bytes_ = 0, done_bytes_ = 0;
};

}  // namespace mlf
