// Drives plugins of TensorRT's registry through the real vtables, on the host, as an engine would:
// create, infer, choose formats, serialize, create again, attach, enqueue. Not an engine build: the
// expressions of sizes here are numbers that say whether they are constant.
//
// A C interface for ctypes (driver.py), step by step, for plugins in Python and in C++ alike.
#include "driver.h"

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

using namespace nvinfer1;  // NOLINT: everything here is about it

namespace {

constexpr int32_t kMaxTensors = 16;

// A size with its value; TensorRT's own are opaque.
struct Size : IDimensionExpr {
  struct Value : apiv::VDimensionExpr {
    int64_t value = 0;
    bool constant = false;
    bool isConstant() const override { return constant; }
    int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
  } impl;
  Size(int64_t value, bool constant) {
    impl.value = value;
    impl.constant = constant;
    mImpl = &impl;
  }
  ~Size() noexcept override = default;
};

const Size::Value& ValueOf(const IDimensionExpr& size) {
  return static_cast<const Size&>(size).impl;
}

int64_t Apply(DimensionOperation op, int64_t a, int64_t b) {
  switch (op) {
    case DimensionOperation::kSUM:
      return a + b;
    case DimensionOperation::kPROD:
      return a * b;
    case DimensionOperation::kMAX:
      return std::max(a, b);
    case DimensionOperation::kMIN:
      return std::min(a, b);
    case DimensionOperation::kSUB:
      return a - b;
    case DimensionOperation::kEQUAL:
      return a == b;
    case DimensionOperation::kLESS:
      return a < b;
    case DimensionOperation::kFLOOR_DIV:
      return a / b;
    case DimensionOperation::kCEIL_DIV:
      return (a + b - 1) / b;
  }
  return 0;
}

struct Builder : IExprBuilder {
  struct Impl : apiv::VExprBuilder {
    std::deque<Size> pool;
    const IDimensionExpr* constant(int64_t value) override {
      return &pool.emplace_back(value, true);
    }
    const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& first,
                                    const IDimensionExpr& second) override {
      const Size::Value &a = ValueOf(first), &b = ValueOf(second);
      return &pool.emplace_back(Apply(op, a.value, b.value), a.constant && b.constant);
    }
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&,
                                            const IDimensionExpr&) override {
      return nullptr;
    }
  } impl;
  Builder() { mImpl = &impl; }
  ~Builder() noexcept override = default;
};

template <typename Capability>
Capability* Get(void* plugin, PluginCapabilityType type) {
  return static_cast<Capability*>(static_cast<IPluginV3*>(plugin)->getCapabilityInterface(type));
}

IPluginV3OneBuild* Build(void* plugin) {
  return Get<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
}

IPluginV3OneRuntime* Runtime(void* plugin) {
  return Get<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

IPluginCreatorV3One* Find(void* registry, const char* name, const char* version,
                          const char* name_space) {
  return static_cast<IPluginCreatorV3One*>(
      static_cast<IPluginRegistry*>(registry)->getCreator(name, version, name_space));
}

size_t ElementBytes(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kFLOAT64:
    case PluginFieldType::kINT64:
      return 8;
    case PluginFieldType::kFLOAT32:
    case PluginFieldType::kINT32:
      return 4;
    default:
      return 1;
  }
}

using TakeField = void (*)(const char* name, int32_t type, int32_t length, const void* data,
                           int64_t bytes);

void Give(const PluginFieldCollection* fields, TakeField take) {
  for (int32_t i = 0; i < fields->nbFields; ++i) {
    const PluginField& f = fields->fields[i];
    const int64_t bytes = f.data ? static_cast<int64_t>(f.length * ElementBytes(f.type)) : 0;
    take(f.name, static_cast<int32_t>(f.type), f.length, f.data, bytes);
  }
}

PluginTensorDesc Describe(int32_t type, int32_t ndim, const int64_t* dims, int32_t format) {
  PluginTensorDesc desc{};
  desc.type = static_cast<DataType>(type);
  desc.format = static_cast<TensorFormat>(format);
  desc.dims.nbDims = ndim;
  std::copy_n(dims, ndim, desc.dims.d);
  return desc;
}

}  // namespace

static std::vector<PluginTensorDesc> DescribeAll(const Tensors& tensors, int32_t format) {
  std::vector<PluginTensorDesc> found;
  const int64_t* at = tensors.sizes;
  for (int32_t i = 0; i < tensors.count; ++i) {
    found.push_back(Describe(tensors.types[i], tensors.ndims[i], at, format));
    at += tensors.ndims[i];
  }
  return found;
}

static std::vector<DynamicPluginTensorDesc> Dynamic(const Tensors& tensors, int32_t format) {
  std::vector<DynamicPluginTensorDesc> found;
  for (const PluginTensorDesc& desc : DescribeAll(tensors, format)) {
    found.push_back({desc, desc.dims, desc.dims, desc.dims});
  }
  return found;
}

extern "C" {

int32_t mlf_drive_field_names(void* registry, const char* name, const char* version,
                              const char* name_space, TakeField take) {
  IPluginCreatorV3One* creator = Find(registry, name, version, name_space);
  if (creator == nullptr) return -1;
  Give(creator->getFieldNames(), take);
  return 0;
}

void* mlf_drive_create(void* registry, const char* name, const char* version,
                       const char* name_space, int32_t runtime, int32_t count,
                       const char* const* names, const int32_t* types, const int32_t* lengths,
                       const void* const* data) {
  IPluginCreatorV3One* creator = Find(registry, name, version, name_space);
  if (creator == nullptr) return nullptr;
  std::vector<PluginField> fields;
  for (int32_t i = 0; i < count; ++i) {
    fields.emplace_back(names[i], data[i], static_cast<PluginFieldType>(types[i]), lengths[i]);
  }
  const PluginFieldCollection all{count, fields.data()};
  return creator->createPlugin("driven", &all,
                               runtime ? TensorRTPhase::kRUNTIME : TensorRTPhase::kBUILD);
}

void mlf_drive_identity(void* plugin, TakeField take) {
  auto* core = Get<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
  for (const char* text :
       {core->getPluginName(), core->getPluginVersion(), core->getPluginNamespace()}) {
    take(text, 0, 0, nullptr, 0);
  }
}

int32_t mlf_drive_output_types(void* plugin, int32_t count, const int32_t* types, int32_t* found) {
  IPluginV3OneBuild* build = Build(plugin);
  std::vector<DataType> inputs, outputs(kMaxTensors);
  for (int32_t i = 0; i < count; ++i) inputs.push_back(static_cast<DataType>(types[i]));
  const int32_t n_outputs = build->getNbOutputs();
  if (build->getOutputDataTypes(outputs.data(), n_outputs, inputs.data(), count) != 0) return -1;
  for (int32_t i = 0; i < n_outputs; ++i) found[i] = static_cast<int32_t>(outputs[i]);
  return n_outputs;
}

// A negative size is one that is not constant, with the value of the opposite sign. The same of
// outputs: found[i] has their number of dimensions, then their sizes come in a row.
int32_t mlf_drive_output_shapes(void* plugin, const Tensors* inputs, int32_t n_values,
                                const int64_t* values, int64_t* found) {
  Builder builder;
  auto size = [&builder](int64_t s) -> const IDimensionExpr* {
    return &builder.impl.pool.emplace_back(s < 0 ? -s : s, s >= 0);
  };
  std::vector<DimsExprs> given(inputs->count), outputs(kMaxTensors);
  const int64_t* at = inputs->sizes;
  for (int32_t i = 0; i < inputs->count; ++i) {
    given[i].nbDims = inputs->ndims[i];
    for (int32_t d = 0; d < inputs->ndims[i]; ++d) given[i].d[d] = size(*at++);
  }
  DimsExprs shape_values{};
  shape_values.nbDims = n_values;
  for (int32_t i = 0; i < n_values; ++i) shape_values.d[i] = size(values[i]);
  IPluginV3OneBuild* build = Build(plugin);
  const int32_t n_outputs = build->getNbOutputs();
  if (build->getOutputShapes(given.data(), inputs->count, &shape_values, n_values > 0 ? 1 : 0,
                             outputs.data(), n_outputs, builder) != 0) {
    return -1;
  }
  for (int32_t i = 0; i < n_outputs; ++i) {
    *found++ = outputs[i].nbDims;
    for (int32_t d = 0; d < outputs[i].nbDims; ++d) {
      const Size::Value& value = ValueOf(*outputs[i].d[d]);
      *found++ = value.constant ? value.value : -value.value;
    }
  }
  return n_outputs;
}

int32_t mlf_drive_supports(void* plugin, const Tensors* tensors, int32_t n_inputs, int32_t position,
                           int32_t format) {
  const auto described = Dynamic(*tensors, format);
  return Build(plugin)->supportsFormatCombination(position, described.data(), n_inputs,
                                                  tensors->count - n_inputs);
}

int64_t mlf_drive_workspace(void* plugin, const Tensors* inputs, const Tensors* outputs) {
  const auto in = Dynamic(*inputs, 0), out = Dynamic(*outputs, 0);
  IPluginV3OneBuild* build = Build(plugin);
  if (build->configurePlugin(in.data(), inputs->count, out.data(), outputs->count) != 0) return -1;
  return static_cast<int64_t>(
      build->getWorkspaceSize(in.data(), inputs->count, out.data(), outputs->count));
}

// -2: the plugin has no aliases at all.
int32_t mlf_drive_aliased(void* plugin, int32_t output) {
  auto* build = Build(plugin);
  const InterfaceInfo info = build->getInterfaceInfo();
  if (std::strcmp(info.kind, "PLUGIN_V3ONE_BUILD") != 0 || info.major < 2) return -2;
  return static_cast<IPluginV3OneBuildV2*>(build)->getAliasedInput(output);
}

int32_t mlf_drive_serialize(void* plugin, TakeField take) {
  const PluginFieldCollection* fields = Runtime(plugin)->getFieldsToSerialize();
  if (fields == nullptr) return -1;
  Give(fields, take);
  return 0;
}

void* mlf_drive_clone(void* plugin) { return static_cast<IPluginV3*>(plugin)->clone(); }

void mlf_drive_destroy(void* plugin) { delete static_cast<IPluginV3*>(plugin); }

void* mlf_drive_attach(void* plugin) { return Runtime(plugin)->attachToContext(nullptr); }

int32_t mlf_drive_shape_change(void* plugin, const Tensors* inputs, const Tensors* outputs) {
  const auto in = DescribeAll(*inputs, 0), out = DescribeAll(*outputs, 0);
  return Runtime(plugin)->onShapeChange(in.data(), inputs->count, out.data(), outputs->count);
}

// Enqueues some times in a row; the status of the last one.
int32_t mlf_drive_enqueue(void* plugin, const Tensors* inputs, const Tensors* outputs,
                          const void* const* in_data, void* const* out_data, void* workspace,
                          void* stream, int32_t times) {
  const auto in = DescribeAll(*inputs, 0), out = DescribeAll(*outputs, 0);
  IPluginV3OneRuntime* runtime = Runtime(plugin);
  int32_t status = 0;
  for (int32_t i = 0; i < times; ++i) {
    status = runtime->enqueue(in.data(), out.data(), in_data, out_data, workspace,
                              static_cast<cudaStream_t>(stream));
  }
  return status;
}

// The function of tvm-ffi's C ABI that calls a function, some times in a row: what the clock sees
// of an op alone.
int32_t mlf_drive_call(int32_t (*call)(void* function, void* arguments, int32_t count,
                                       void* result),
                       void* function, void* arguments, int32_t count, int32_t times) {
  int32_t status = 0;
  for (int32_t i = 0; i < times; ++i) {
    int64_t nothing[2] = {0, 0};  // a TVMFFIAny
    status = call(function, arguments, count, nothing);
  }
  return status;
}

}  // extern "C"
