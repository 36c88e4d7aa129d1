// A plugin with the values of its fields: which tensors it has, in which order, and its call laid
// out. Counterpart: configuration.cc.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <vector>

#include "tensorrt/declaration.h"

namespace mlf::tensorrt {

/// Nothing changes it, so that clones, execution contexts and threads share one.
struct Configuration {
  /// `values` as the declaration has its fields; throws nothing that depends on them.
  Configuration(const Declaration& plugin, std::vector<ffi::Any> field_values);

  const TensorSpec& input(size_t i) const { return declaration.signature.tensors()[inputs[i]]; }
  const TensorSpec& output(size_t i) const { return declaration.signature.tensors()[outputs[i]]; }

  /// The input whose dtype the tensor has or may have; -1 when it has none, or that is not given.
  int Model(const TensorSpec& tensor) const { return tensor.like < 0 ? -1 : input_of[tensor.like]; }

  const Declaration& declaration;
  std::vector<ffi::Any> values;
  std::vector<size_t> inputs{};   // index of each in the signature
  std::vector<size_t> outputs{};  // likewise: those that are written in place come first
  std::vector<int> aliased{};     // the input of each output that is written in place, else -1
  std::vector<int> input_of{};    // per tensor of the signature: its input, or -1
  std::vector<int> output_of{};   // likewise

  /// Arguments of the call; those of tensors have no address yet.
  std::vector<TVMFFIAny> arguments{};
  /// Where each tensor's argument gets it: input i as i, output i as inputs.size() + i, others -1.
  std::vector<int> places{};

 private:
  void LayOut();
};

}  // namespace mlf::tensorrt
