// Counterpart: inference.h. Shapes are matched by one template: sizes are TensorRT's expressions
// while a network is built, and numbers when it runs.
#include "tensorrt/inference.h"

#include <algorithm>
#include <array>
#include <optional>
#include <sstream>
#include <string>

#include "base/dtype.h"

namespace mlf::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::IDimensionExpr;

struct TypePair {
  DataType type;
  DLDataType dtype;
};
constexpr TypePair kTypes[] = {{DataType::kFLOAT, kF32},
                               {DataType::kHALF, kF16},
                               {DataType::kBF16, kBF16},
                               {DataType::kINT32, kI32},
                               {DataType::kINT64, kI64}};

bool HasDtype(const TensorSpec& tensor, DLDataType dtype) {
  const bool known = dtype.bits != 0;
  return known &&
         std::find(tensor.dtypes.begin(), tensor.dtypes.end(), dtype) != tensor.dtypes.end();
}

std::string ExpectedDtypes(const Configuration& plugin, const TensorSpec& tensor,
                           const DLDataType* dtypes) {
  std::string expected;
  const auto add = [&expected](DLDataType dtype) {
    if (!(dtype == kU8)) expected += (expected.empty() ? "" : " or ") + DtypeName(dtype);
  };
  const int model = plugin.Model(tensor);
  if (model >= 0) add(dtypes[model]);
  std::for_each(tensor.dtypes.begin(), tensor.dtypes.end(), add);
  return expected;
}

void CheckCount(const Configuration& plugin, const char* what, size_t given, size_t expected) {
  if (given != expected)
    TVM_FFI_THROW(TypeError) << plugin.declaration.name << ": " << given << " " << what
                             << " given, expected " << expected;
}

// ---- shapes -------------------------------------------------------------------------------------

std::optional<int64_t> Known(int64_t size) { return size; }
std::optional<int64_t> Known(const IDimensionExpr* size) {
  if (!size->isConstant()) return std::nullopt;
  return size->getConstantValue();
}

template <typename Shape>
std::string Printed(const Shape& shape) {
  std::ostringstream os;
  for (int32_t d = 0; d < shape.nbDims; ++d) {
    const std::optional<int64_t> size = Known(shape.d[d]);
    os << (d == 0 ? "[" : ", ") << (size ? std::to_string(*size) : "?");
  }
  return shape.nbDims == 0 ? "[]" : os.str() + "]";
}

/// What the symbols of a signature stand for: the size in the first input that has them, as in
/// Python. Shape is DimsExprs or Dims.
template <typename Shape>
class Symbols {
 public:
  using Size = std::decay_t<decltype(Shape{}.d[0])>;

  explicit Symbols(const Configuration& plugin) : plugin_(plugin) {}

  void Bind(size_t i, const Shape& shape) {
    const TensorSpec& tensor = plugin_.input(i);
    const auto own = static_cast<int32_t>(tensor.dims.size());
    const int32_t lead = shape.nbDims - own;
    if (lead < 0 || (lead > 0 && tensor.batch < 0))
      Refuse(i, shape, "another number of dimensions");
    if (tensor.batch >= 0) BindBatch(i, shape, lead);
    for (int32_t d = 0; d < own; ++d) {
      const DimSpec& dim = tensor.dims[d];
      const Size size = shape.d[lead + d];
      if (dim.kind == DimSpec::Kind::kNumber) {
        const std::optional<int64_t> known = Known(size);
        if (known && *known != dim.value) Refuse(i, shape, std::to_string(dim.value).c_str());
        continue;
      }
      std::optional<Size>& bound = sizes_[dim.value];
      if (bound && Differ(*bound, size)) Refuse(i, shape, "the sizes of the inputs before it");
      if (!bound) bound = size;
    }
  }

  /// `number`: makes a size of a number.
  template <typename Number>
  Shape Of(const TensorSpec& tensor, Number&& number) const {
    Shape shape{};
    if (tensor.batch >= 0) {
      const Shape& batch = *batches_[tensor.batch];
      shape.nbDims = batch.nbDims;
      std::copy_n(batch.d, batch.nbDims, shape.d);
    }
    if (shape.nbDims + tensor.dims.size() > size_t{Dims::MAX_DIMS})
      TVM_FFI_THROW(ValueError) << plugin_.declaration.name << ": " << tensor.name
                                << " would have more than " << Dims::MAX_DIMS << " dimensions";
    for (const DimSpec& dim : tensor.dims) {
      const bool is_number = dim.kind == DimSpec::Kind::kNumber;
      shape.d[shape.nbDims++] = is_number ? number(dim.value) : *sizes_[dim.value];
    }
    return shape;
  }

 private:
  static bool Differ(Size a, Size b) {
    const std::optional<int64_t> first = Known(a), second = Known(b);
    return first && second && *first != *second;
  }

  void BindBatch(size_t i, const Shape& shape, int32_t lead) {
    std::optional<Shape>& bound = batches_[plugin_.input(i).batch];
    if (!bound) {
      bound = shape;
      bound->nbDims = lead;
      return;
    }
    if (bound->nbDims != lead) Refuse(i, shape, "the leading dimensions of the inputs before it");
    for (int32_t d = 0; d < lead; ++d) {
      if (Differ(bound->d[d], shape.d[d]))
        Refuse(i, shape, "the leading dimensions of the inputs before it");
    }
  }

  [[noreturn]] void Refuse(size_t i, const Shape& shape, const char* expected) const {
    TVM_FFI_THROW(ValueError) << plugin_.declaration.name << ": " << plugin_.input(i).name
                              << " has shape " << Printed(shape) << ", expected " << expected;
    __builtin_unreachable();
  }

  const Configuration& plugin_;
  std::array<std::optional<Size>, Signature::kMaxSymbols> sizes_{};
  std::array<std::optional<Shape>, Signature::kMaxSymbols> batches_{};
};

void CheckOutput(const Configuration& plugin, size_t i, const nvinfer1::PluginTensorDesc& output,
                 const nvinfer1::PluginTensorDesc& expected) {
  const Dims &have = output.dims, &want = expected.dims;
  const bool same_shape =
      have.nbDims == want.nbDims && std::equal(have.d, have.d + have.nbDims, want.d);
  if (same_shape && output.type == expected.type) return;
  TVM_FFI_THROW(ValueError) << plugin.declaration.name << ": output " << i << " is "
                            << DtypeName(DtypeOf(output.type)) << " " << Printed(have)
                            << " in the engine, inference for these inputs gives "
                            << DtypeName(DtypeOf(expected.type)) << " " << Printed(want);
}

}  // namespace

// ---- dtypes -------------------------------------------------------------------------------------

DLDataType DtypeOf(DataType type) {
  for (const TypePair& pair : kTypes) {
    if (pair.type == type) return pair.dtype;
  }
  return {};
}

bool TakesDtype(const Configuration& plugin, size_t i, DLDataType dtype, const DLDataType* before) {
  const TensorSpec& tensor = plugin.input(i);
  if (dtype == kU8) return false;
  const int model = plugin.Model(tensor);
  return HasDtype(tensor, dtype) || (model >= 0 && dtype.bits != 0 && dtype == before[model]);
}

void CheckInputs(const Configuration& plugin, const DLDataType* dtypes, int32_t count) {
  CheckCount(plugin, "inputs", static_cast<size_t>(count), plugin.inputs.size());
  for (size_t i = 0; i < plugin.inputs.size(); ++i) {
    if (TakesDtype(plugin, i, dtypes[i], dtypes)) continue;
    const TensorSpec& tensor = plugin.input(i);
    const std::string given = dtypes[i].bits == 0 ? "of another dtype" : DtypeName(dtypes[i]);
    TVM_FFI_THROW(TypeError) << plugin.declaration.name << ": " << tensor.name << " is " << given
                             << ", expected " << ExpectedDtypes(plugin, tensor, dtypes);
  }
}

DataType OutputType(const Configuration& plugin, size_t i, const DLDataType* inputs) {
  const TensorSpec& tensor = plugin.output(i);
  DLDataType dtype{};
  if (plugin.aliased[i] >= 0) {
    dtype = inputs[plugin.aliased[i]];
  } else if (plugin.declaration.widening &&
             plugin.values[*plugin.declaration.widening].cast<bool>()) {
    dtype = kF32;
  } else {
    const int model = plugin.Model(tensor);
    dtype = model >= 0 ? inputs[model] : tensor.dtypes.front();
  }
  for (const TypePair& pair : kTypes) {
    if (pair.dtype == dtype) return pair.type;
  }
  TVM_FFI_THROW(TypeError) << plugin.declaration.name << ": " << tensor.name << " would be "
                           << DtypeName(dtype) << ", which no plugin has";
}

void InferShapes(const Configuration& plugin, const DimsExprs* inputs, int32_t n_inputs,
                 DimsExprs* outputs, int32_t n_outputs, nvinfer1::IExprBuilder& builder) {
  CheckCount(plugin, "inputs", static_cast<size_t>(n_inputs), plugin.inputs.size());
  CheckCount(plugin, "outputs", static_cast<size_t>(n_outputs), plugin.outputs.size());
  Symbols<DimsExprs> symbols(plugin);
  for (size_t i = 0; i < plugin.inputs.size(); ++i) symbols.Bind(i, inputs[i]);
  const auto number = [&builder](int64_t n) { return builder.constant(n); };
  for (size_t i = 0; i < plugin.outputs.size(); ++i) {
    const int source = plugin.aliased[i];
    outputs[i] = source >= 0 ? inputs[source] : symbols.Of(plugin.output(i), number);
  }
}

void CheckTensors(const Configuration& plugin, const nvinfer1::PluginTensorDesc* inputs,
                  int32_t n_inputs, const nvinfer1::PluginTensorDesc* outputs, int32_t n_outputs) {
  CheckCount(plugin, "inputs", static_cast<size_t>(n_inputs), plugin.inputs.size());
  CheckCount(plugin, "outputs", static_cast<size_t>(n_outputs), plugin.outputs.size());
  std::array<DLDataType, kMaxTensors> dtypes{};
  Symbols<Dims> symbols(plugin);
  for (size_t i = 0; i < plugin.inputs.size(); ++i) dtypes[i] = DtypeOf(inputs[i].type);
  CheckInputs(plugin, dtypes.data(), n_inputs);
  for (size_t i = 0; i < plugin.inputs.size(); ++i) symbols.Bind(i, inputs[i].dims);
  for (size_t i = 0; i < plugin.outputs.size(); ++i) {
    nvinfer1::PluginTensorDesc expected{};
    expected.type = OutputType(plugin, i, dtypes.data());
    expected.dims = symbols.Of(plugin.output(i), [](int64_t n) { return n; });
    CheckOutput(plugin, i, outputs[i], expected);
  }
}

}  // namespace mlf::tensorrt
