// The registry of architectures: each arch_<name>.cc registers itself. Counterpart:
// architecture.cc.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/forward.h"
#include "model/weights.h"

namespace mlf {

/// A loaded network. Immutable: any number of forward passes may run at once, each with its own
/// workspace.
class Network {
 public:
  virtual ~Network() = default;

  /// logits float32 [batch.n_outputs(), n_vocab]; kv has one entry per layer; appends the batch to
  /// its pages and writes batch.embeddings.
  virtual void Forward(const ForwardBatch& batch, const std::vector<KvLayer>& kv,
                       const Workspace& workspace, const RopeSettings& rope,
                       ArrayView logits) const = 0;

  /// Frequency factors of the rotary embedding, float32 [rope_dims / 2]; undefined when there are
  /// none.
  virtual ArrayView freq_factors() const = 0;
};

/// Completes `config` (what the metadata does not say, such as the rotary layout) and loads the
/// weights.
using BuildNetwork = std::unique_ptr<Network> (*)(ModelConfig& config, WeightLoader& loader);

/// At namespace scope of arch_<name>.cc: const bool kRegistered = RegisterArchitecture("llama",
/// BuildLlama);
bool RegisterArchitecture(const std::string& name, BuildNetwork build);

/// Throws NotImplementedError naming the architecture and those that are known.
BuildNetwork FindArchitecture(const std::string& name);

}  // namespace mlf
