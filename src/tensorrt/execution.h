// A plugin's call of its op, on memory that TensorRT gives. Counterparts: execution.cc,
// python/my_llm_ffi/tensorrt/execution.py.
#pragma once
#include <NvInferRuntime.h>

#include "tensorrt/configuration.h"

namespace mlf::tensorrt {

/// Launches, and neither waits nor allocates; changes nothing of the plugin, so that any number of
/// threads may be in it. Throws what the op throws.
void Execute(const Configuration& plugin, const nvinfer1::PluginTensorDesc* input_descs,
             const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
             void* const* outputs, cudaStream_t stream);

}  // namespace mlf::tensorrt
