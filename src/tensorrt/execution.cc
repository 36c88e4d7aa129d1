// Counterpart: execution.h.
#include "tensorrt/execution.h"

#include <algorithm>

#include "base/dtype.h"
#include "tensorrt/device.h"
#include "tensorrt/inference.h"

namespace mlf::tensorrt {
namespace {

using nvinfer1::Dims;
using nvinfer1::PluginTensorDesc;

/// A view of one tensor, with its strides: shape and memory are TensorRT's.
struct View {
  DLTensor tensor;
  int64_t strides[Dims::MAX_DIMS];

  void Describe(const PluginTensorDesc& desc, DLDevice device, void* data) {
    const Dims& dims = desc.dims;
    int64_t stride = 1;
    for (int32_t d = dims.nbDims - 1; d >= 0; --d) {
      strides[d] = stride;
      stride *= dims.d[d];
    }
    // A DLTensor is for writers too; ops do not write shapes.
    tensor = {data,    device, dims.nbDims, DtypeOf(desc.type), const_cast<int64_t*>(dims.d),
              strides, 0};
  }
};

/// An output that TensorRT gave memory of its own begins as its input is.
void FillAliased(const Configuration& plugin, const View* views, DLDevice device, void* stream) {
  for (size_t o = 0; o < plugin.outputs.size(); ++o) {
    if (plugin.aliased[o] < 0) break;  // those come first
    const DLTensor& from = views[plugin.aliased[o]].tensor;
    const DLTensor& to = views[plugin.inputs.size() + o].tensor;
    if (to.data == from.data) continue;
    const bool same = to.ndim == from.ndim && to.dtype == from.dtype &&
                      std::equal(to.shape, to.shape + to.ndim, from.shape);
    if (!same)
      TVM_FFI_THROW(ValueError) << plugin.declaration.name << ": output " << o
                                << " is not of the shape and dtype of "
                                << plugin.input(plugin.aliased[o]).name << ", which it begins as";
    int64_t bytes = DtypeBytes(to.dtype);
    for (int32_t d = 0; d < to.ndim; ++d) bytes *= to.shape[d];
    Copy(device, to.data, from.data, static_cast<size_t>(bytes), stream);
  }
}

}  // namespace

void Execute(const Configuration& plugin, const PluginTensorDesc* input_descs,
             const PluginTensorDesc* output_descs, const void* const* inputs, void* const* outputs,
             cudaStream_t stream) {
  const DLDevice device = CurrentDevice();
  View views[kMaxTensors * 2];  // a tensor that is written in place is an input and an output
  const size_t n_inputs = plugin.inputs.size();
  for (size_t i = 0; i < n_inputs; ++i) {
    views[i].Describe(input_descs[i], device, const_cast<void*>(inputs[i]));
  }
  for (size_t o = 0; o < plugin.outputs.size(); ++o) {
    views[n_inputs + o].Describe(output_descs[o], device, outputs[o]);
  }
  FillAliased(plugin, views, device, stream);
  TVMFFIAny arguments[kMaxArguments];
  std::copy(plugin.arguments.begin(), plugin.arguments.end(), arguments);
  for (size_t a = 0; a < plugin.places.size(); ++a) {
    if (plugin.places[a] >= 0) arguments[a].v_ptr = &views[plugin.places[a]].tensor;
  }
  const CurrentStream current(device, stream);
  ffi::Any result;
  using Unsafe = ffi::detail::ObjectUnsafe;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFIFunctionCall(
      Unsafe::TVMFFIObjectPtrFromObjectRef(plugin.declaration.function), arguments,
      static_cast<int32_t>(plugin.arguments.size()), reinterpret_cast<TVMFFIAny*>(&result)));
}

}  // namespace mlf::tensorrt
