// Fields of a plugin as TensorRT keeps them in an engine; the table is in docs/guide_tensorrt.md.
// Counterparts: fields.cc, python/my_llm_ffi/tensorrt/fields.py.
#pragma once
#include <NvInferRuntime.h>

#include <memory>
#include <vector>

#include "tensorrt/declaration.h"

namespace mlf::tensorrt {

/// Values of all fields, those that are absent by their defaults. Throws ValueError or TypeError
/// that names plugin and field.
std::vector<ffi::Any> ReadFields(const Declaration& plugin,
                                 const nvinfer1::PluginFieldCollection* given);

/// Fields in memory of their own, which TensorRT reads as long as the owner lives. Their names are
/// those of the declaration.
class WrittenFields {
 public:
  /// What a creator lists: types without data.
  explicit WrittenFields(const Declaration& plugin);
  /// What an engine keeps: all but those that are None.
  WrittenFields(const Declaration& plugin, const std::vector<ffi::Any>& values);
  WrittenFields(const WrittenFields&) = delete;
  WrittenFields& operator=(const WrittenFields&) = delete;

  const nvinfer1::PluginFieldCollection* get() const { return &collection_; }

 private:
  void Add(const char* name, nvinfer1::PluginFieldType type, const void* data, size_t bytes,
           int32_t length);
  void Finish();

  std::vector<std::unique_ptr<char[]>> data_{};  // aligned for any element, by operator new
  std::vector<nvinfer1::PluginField> fields_{};
  nvinfer1::PluginFieldCollection collection_{0, nullptr};
};

}  // namespace mlf::tensorrt
