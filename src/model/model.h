// A loaded model: weights, configuration, vocabulary. Counterpart: model.cc.
#pragma once
#include <memory>
#include <string>

#include "io/gguf.h"
#include "model/architecture.h"
#include "text/vocab.h"

namespace mlf {

struct ModelOptions {
  int n_threads = 0;  // of kernels that run for this model; 0: all CPUs of the affinity mask
  bool repack = true, mmap = true, mlock = false;
  std::function<bool(double)> progress;  // gets the fraction loaded; false cancels
};

/// Immutable once loaded: any number of contexts on any threads share it.
class Model {
 public:
  static std::shared_ptr<const Model> Load(const std::string& path, const ModelOptions& options);

  const ModelConfig& config() const { return config_; }
  const Network& network() const { return *network_; }
  const Gguf& file() const { return *file_; }
  const std::shared_ptr<const Vocab>& vocab() const { return vocab_; }
  int n_threads() const { return n_threads_; }

 private:
  Model() = default;

  std::shared_ptr<const Gguf>
      file_;  // mapped as long as the model lives: metadata and unpacked tables point into it
  ModelConfig config_;
  std::shared_ptr<const Vocab> vocab_;
  std::unique_ptr<Network> network_;
  int n_threads_ = 0;
};

}  // namespace mlf
