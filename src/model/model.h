// A loaded model: weights, configuration, vocabulary. Counterpart: model.cc.
#pragma once
#include <memory>
#include <mutex>
#include <string>

#include "io/gguf.h"
#include "model/architecture.h"
#include "text/vocab.h"

namespace mlf {

struct ModelOptions {
  int n_threads = 0;  // of kernels that run for this model; 0: all CPUs of the affinity mask
  bool repack = true, mmap = true, mlock = false;
  std::function<bool(double)> progress{};  // gets the fraction loaded; false cancels
};

/// Immutable once loaded, but for Close: any number of contexts on any threads share it.
class Model {
 public:
  static std::shared_ptr<const Model> Load(const std::string& path, const ModelOptions& options);

  const ModelConfig& config() const { return config_; }
  std::shared_ptr<const Network> network() const;
  std::shared_ptr<const Gguf> file() const;
  const std::shared_ptr<const Vocab>& vocab() const { return vocab_; }
  const std::vector<MatrixInfo>& matrices() const { return matrices_; }
  int n_threads() const { return n_threads_; }

  /// A number that two files with other weights do not share: names, shapes, formats and the first
  /// bytes of every tensor.
  uint64_t Fingerprint() const;

  /// Frees the weights once no pass uses them. Configuration and vocabulary stay; everything that
  /// needs weights or file throws ValueError from here on.
  void Close() const;
  void CheckOpen() const { network(); }

 private:
  Model() = default;

  mutable std::mutex open_mutex_;  // guards file_ and network_
  mutable std::shared_ptr<const Gguf> file_;
  ModelConfig config_;
  std::shared_ptr<const Vocab> vocab_;
  mutable std::shared_ptr<const Network> network_;
  std::vector<MatrixInfo> matrices_;
  int n_threads_ = 0;
};

}  // namespace mlf
