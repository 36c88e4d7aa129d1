// Dtypes and shapes of a plugin's outputs, and what its inputs may be. Counterparts: inference.cc,
// python/my_llm_ffi/tensorrt/inference.py.
#pragma once
#include <NvInferRuntime.h>

#include "tensorrt/configuration.h"

namespace mlf::tensorrt {

/// DLPack's dtype of TensorRT's; of 0 bits where plugins have none.
DLDataType DtypeOf(nvinfer1::DataType type);

/// Whether input i may have a dtype, given those of the inputs before it.
bool TakesDtype(const Configuration& plugin, size_t i, DLDataType dtype, const DLDataType* before);

/// Throws TypeError that names the input, unless the plugin takes them.
void CheckInputs(const Configuration& plugin, const DLDataType* dtypes, int32_t count);

/// The dtype of output i, for inputs that it takes.
nvinfer1::DataType OutputType(const Configuration& plugin, size_t i, const DLDataType* inputs);

/// Shapes of all outputs as expressions of those of the inputs. Throws ValueError where sizes that
/// are known do not fit each other.
void InferShapes(const Configuration& plugin, const nvinfer1::DimsExprs* inputs, int32_t n_inputs,
                 nvinfer1::DimsExprs* outputs, int32_t n_outputs, nvinfer1::IExprBuilder& builder);

/// Throws TypeError or ValueError unless the outputs are those that inference gives for the inputs.
void CheckTensors(const Configuration& plugin, const nvinfer1::PluginTensorDesc* inputs,
                  int32_t n_inputs, const nvinfer1::PluginTensorDesc* outputs, int32_t n_outputs);

}  // namespace mlf::tensorrt
