// Counterpart: configuration.h.
#include "tensorrt/configuration.h"

#include <utility>

namespace mlf::tensorrt {

Configuration::Configuration(const Declaration& plugin, std::vector<ffi::Any> field_values)
    : declaration(plugin), values(std::move(field_values)) {
  const std::vector<TensorSpec>& tensors = declaration.signature.tensors();
  using Use = TensorSpec::Use;
  input_of.assign(tensors.size(), -1);
  output_of.assign(tensors.size(), -1);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::optional<size_t>& present = declaration.presence[i];
    if (tensors[i].use == Use::kOutput || (present && !values[*present].cast<bool>())) continue;
    input_of[i] = static_cast<int>(inputs.size());
    inputs.push_back(i);
  }
  for (const Use use : {Use::kMutable, Use::kOutput}) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].use != use) continue;
      output_of[i] = static_cast<int>(outputs.size());
      outputs.push_back(i);
      aliased.push_back(input_of[i]);
    }
  }
  LayOut();
}

void Configuration::LayOut() {
  using From = ArgumentSource::From;
  for (const ArgumentSource& source : declaration.arguments) {
    ffi::AnyView argument(nullptr);
    int place = -1;
    if (source.from == From::kField) argument = values[source.index];
    if (source.from == From::kConstant) argument = source.constant;
    TVMFFIAny laid = argument.CopyToTVMFFIAny();
    if (source.from == From::kTensor) {
      const int output = output_of[source.index];
      place = output < 0 ? input_of[source.index] : static_cast<int>(inputs.size()) + output;
      if (place >= 0) laid.type_index = kTVMFFIDLTensorPtr;
    }
    arguments.push_back(laid);
    places.push_back(place);
  }
}

}  // namespace mlf::tensorrt
