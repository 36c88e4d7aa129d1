// The creators, and all that libmy_llm_ffi_tensorrt.so exports (exports.map). Nobody includes this
// file. Counterpart: python/my_llm_ffi/tensorrt/adapter.py.
#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

#include "tensorrt/declaration.h"
#include "tensorrt/device.h"
#include "tensorrt/fields.h"
#include "tensorrt/plugin.h"
#include "tensorrt/report.h"

namespace mlf::tensorrt {
namespace {

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(std::unique_ptr<const Declaration> declaration)
      : declaration_(std::move(declaration)), fields_(*declaration_) {}

  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    return Guarded(declaration_->name, "createPlugin", static_cast<nvinfer1::IPluginV3*>(nullptr),
                   [&] { return MakePlugin(*declaration_, ReadFields(*declaration_, fields)); });
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return fields_.get(); }
  const char* getPluginName() const noexcept override { return declaration_->name.c_str(); }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  std::unique_ptr<const Declaration> declaration_;
  WrittenFields fields_;
};

using Interfaces = std::vector<nvinfer1::IPluginCreatorInterface*>;

/// Made once and never deleted: plugins may outlive whoever loaded the library.
Interfaces MakeCreators() {
  std::vector<std::unique_ptr<Creator>> made;
  for (auto& declaration : ShippedPlugins()) {
    made.push_back(std::make_unique<Creator>(std::move(declaration)));
  }
  Interfaces interfaces;
  for (auto& creator : made) interfaces.push_back(creator.release());
  return interfaces;
}

}  // namespace
}  // namespace mlf::tensorrt

extern "C" {

/// What a registry of TensorRT calls for the creators of a library.
[[gnu::visibility("default")]] nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) {
  using mlf::tensorrt::Guarded;
  using mlf::tensorrt::Interfaces;
  const auto* none = static_cast<const Interfaces*>(nullptr);
  const Interfaces* all = Guarded("library", "getCreators", none, [] {
    static const Interfaces& made = *new Interfaces(mlf::tensorrt::MakeCreators());
    return &made;
  });
  count = all == nullptr ? 0 : static_cast<int32_t>(all->size());
  return all == nullptr ? nullptr : all->data();
}

/// What TensorRT calls for a library whose plugins lie in a plan.
[[gnu::visibility("default")]] void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  mlf::tensorrt::SetLoggerFinder(finder);
}

/// Whether addresses are the host's: for tests of the interface without a GPU.
[[gnu::visibility("default")]] void my_llm_ffi_tensorrt_host_memory(int32_t host) {
  mlf::tensorrt::SetHostMemory(host != 0);
}

/// What a plugin reported last in this thread; "" where none did. Valid until the next report.
[[gnu::visibility("default")]] const char* my_llm_ffi_tensorrt_last_error() {
  return mlf::tensorrt::LastError();
}

}  // extern "C"
