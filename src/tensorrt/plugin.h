// What TensorRT sees of a plugin: IPluginV3. Counterparts: plugin.cc,
// python/my_llm_ffi/tensorrt/adapter.py.
#pragma once
#include <NvInferRuntime.h>

#include <memory>
#include <vector>

#include "tensorrt/configuration.h"

namespace mlf::tensorrt {

/// A plugin with the given values of its fields, which TensorRT deletes. Throws bad_alloc alone.
nvinfer1::IPluginV3* MakePlugin(const Declaration& declaration, std::vector<ffi::Any> values);

}  // namespace mlf::tensorrt
