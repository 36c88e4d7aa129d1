// Counterpart: plugin.h.
#include "tensorrt/plugin.h"

#include <array>
#include <utility>

#include "tensorrt/execution.h"
#include "tensorrt/fields.h"
#include "tensorrt/inference.h"
#include "tensorrt/report.h"

namespace mlf::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginTensorDesc;

/// All that a plugin and its clones share: nothing changes it.
struct Shared {
  Shared(const Declaration& declaration, std::vector<ffi::Any> values)
      : configuration(declaration, std::move(values)), fields(declaration, configuration.values) {}

  const Configuration configuration;
  const WrittenFields fields;
};

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuildV2,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit Plugin(std::shared_ptr<const Shared> shared) : shared_(std::move(shared)) {}

  // ---- all phases

  nvinfer1::IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuildV2*>(this);
      case PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  nvinfer1::IPluginV3* clone() noexcept override { return Copied("clone"); }

  const char* getPluginName() const noexcept override { return Name().c_str(); }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // ---- build

  int32_t getNbOutputs() const noexcept override {
    return static_cast<int32_t>(configuration().outputs.size());
  }

  int32_t getAliasedInput(int32_t output) noexcept override {
    const std::vector<int>& aliased = configuration().aliased;
    const bool known = output >= 0 && output < static_cast<int32_t>(aliased.size());
    return known ? aliased[output] : -1;
  }

  int32_t getOutputDataTypes(DataType* outputs, int32_t n_outputs, const DataType* inputs,
                             int32_t n_inputs) const noexcept override {
    return GuardedStatus(Name(), "getOutputDataTypes", [&] {
      const Dtypes dtypes = Checked(inputs, n_inputs);
      for (int32_t i = 0; i < n_outputs && i < getNbOutputs(); ++i) {
        outputs[i] = OutputType(configuration(), i, dtypes.data());
      }
    });
  }

  int32_t getOutputShapes(const DimsExprs* inputs, int32_t n_inputs, const DimsExprs*, int32_t,
                          DimsExprs* outputs, int32_t n_outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override {
    return GuardedStatus(Name(), "getOutputShapes", [&] {
      InferShapes(configuration(), inputs, n_inputs, outputs, n_outputs, builder);
    });
  }

  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                 int32_t n_inputs, int32_t) noexcept override {
    return Guarded(Name(), "supportsFormatCombination", false, [&] {
      const PluginTensorDesc& desc = tensors[position].desc;
      if (desc.format != nvinfer1::TensorFormat::kLINEAR) return false;
      const auto count = static_cast<int32_t>(configuration().inputs.size());
      if (n_inputs != count || position >= count + getNbOutputs()) return false;
      Dtypes dtypes{};
      for (int32_t i = 0; i < count && i <= position; ++i) {
        dtypes[i] = DtypeOf(tensors[i].desc.type);
        if (!TakesDtype(configuration(), i, dtypes[i], dtypes.data())) return false;
      }
      if (position < count) return true;
      return OutputType(configuration(), position - count, dtypes.data()) == desc.type;
    });
  }

  int32_t configurePlugin(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                          int32_t) noexcept override {
    return 0;
  }

  // ---- run time

  int32_t setTactic(int32_t) noexcept override { return 0; }

  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return Copied("attachToContext");
  }

  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    return shared_->fields.get();
  }

  int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t n_inputs,
                        const PluginTensorDesc* outputs, int32_t n_outputs) noexcept override {
    return GuardedStatus(Name(), "onShapeChange", [&] {
      CheckTensors(configuration(), inputs, n_inputs, outputs, n_outputs);
    });
  }

  int32_t enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs,
                  const void* const* inputs, void* const* outputs, void*,
                  cudaStream_t stream) noexcept override {
    return GuardedStatus(Name(), "enqueue", [&] {
      Execute(configuration(), input_descs, output_descs, inputs, outputs, stream);
    });
  }

 private:
  using Dtypes = std::array<DLDataType, kMaxTensors>;

  const Configuration& configuration() const { return shared_->configuration; }
  const std::string& Name() const { return configuration().declaration.name; }

  Plugin* Copied(const char* method) const noexcept {
    return Guarded(Name(), method, static_cast<Plugin*>(nullptr),
                   [this] { return new Plugin(shared_); });
  }

  Dtypes Checked(const DataType* types, int32_t count) const {
    Dtypes dtypes{};
    for (int32_t i = 0; i < count && i < static_cast<int32_t>(kMaxTensors); ++i) {
      dtypes[i] = DtypeOf(types[i]);
    }
    CheckInputs(configuration(), dtypes.data(), count);
    return dtypes;
  }

  std::shared_ptr<const Shared> shared_;
};

}  // namespace

nvinfer1::IPluginV3* MakePlugin(const Declaration& declaration, std::vector<ffi::Any> values) {
  return new Plugin(std::make_shared<const Shared>(declaration, std::move(values)));
}

}  // namespace mlf::tensorrt
