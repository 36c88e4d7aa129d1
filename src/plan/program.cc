// What a plan computes. Counterpart: program.h.
#include "plan/program.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "base/dtype.h"
#include "base/quote.h"

namespace mlf {
namespace {

using Kind = PlanTensor::Kind;

constexpr size_t kMaxName = 1 << 16;

template <typename... Words>
[[noreturn]] void Refuse(const Words&... words) {
  std::ostringstream os;
  (os << ... << words);
  TVM_FFI_THROW(ValueError) << "plan: " << os.str();
}

/// Calls fn(); what it refuses begins with "plan: " and `place`.
template <typename Fn>
decltype(auto) At(const std::string& place, Fn&& fn) {
  try {
    return fn();
  } catch (const ffi::Error& error) {
    if (std::string_view(error.kind()) != "ValueError") throw;
    Refuse(place, ": ", std::string(error.message()));
  }
}

void CheckDtype(DLDataType dtype) {
  const bool bits = dtype.bits == 8 || dtype.bits == 16 || dtype.bits == 32 || dtype.bits == 64;
  const bool code = dtype.code == kDLInt || dtype.code == kDLUInt || dtype.code == kDLFloat ||
                    (dtype.code == kDLBfloat && dtype.bits == 16) ||
                    (dtype.code == kDLBool && dtype.bits == 8);
  const bool whole = dtype.code != kDLFloat || dtype.bits != 8;
  if (!bits || !code || !whole || dtype.lanes != 1)
    TVM_FFI_THROW(ValueError) << "dtype is " << DtypeName(dtype)
                              << ", expected one of whole bytes that arrays have";
}

void CheckName(const std::string& name) {
  if (name.empty() || name.size() > kMaxName || !IsUtf8(name))
    TVM_FFI_THROW(ValueError) << "name is " << Quoted(name) << ", expected text";
}

const char* KindName(Kind kind) {
  static constexpr const char* kNames[] = {"input", "constant", "parameter", "buffer", "view"};
  return kNames[static_cast<int>(kind)];
}

const char* ArgumentName(const PlanArgument& argument) {
  static constexpr const char* kNames[] = {"None",    "a tensor", "an integer",
                                           "a float", "a bool",   "text"};
  return kNames[argument.index()];
}

bool Matches(const ParameterType& type, const PlanArgument& argument) {
  using Parameter = ParameterType::Kind;
  if (type.kind == Parameter::kAny) return true;
  if (std::holds_alternative<std::monostate>(argument)) return type.optional;
  switch (type.kind) {
    case Parameter::kTensor:
      return std::holds_alternative<PlanTensorIndex>(argument);
    case Parameter::kInt:
      return std::holds_alternative<int64_t>(argument);
    case Parameter::kFloat:
      return std::holds_alternative<double>(argument) || std::holds_alternative<int64_t>(argument);
    case Parameter::kBool:
      return std::holds_alternative<bool>(argument);
    case Parameter::kString:
      return std::holds_alternative<std::string>(argument);
    default:
      return false;
  }
}

}  // namespace

std::string Program::StepName(size_t step, const std::string& function) {
  return "step " + std::to_string(step) + " (" + function + ")";
}

std::string Program::TensorName(int32_t index) const {
  const PlanTensor& t = tensors_[index];
  const std::string kind = KindName(t.kind);
  return kind + " " + (t.name.empty() ? std::to_string(index) : Quoted(t.name));
}

// ---- tensors ------------------------------------------------------------------------------------

int32_t Program::Add(PlanTensor tensor, Sizes shape) {
  const auto index = static_cast<int32_t>(tensors_.size());
  const std::string place = std::string(KindName(tensor.kind)) + " " +
                            (tensor.name.empty() ? std::to_string(index) : Quoted(tensor.name));
  const size_t symbols = symbols_.size();
  try {
    At(place, [&] {
      if (index >= kMaxTensors) TVM_FFI_THROW(ValueError) << "is one more than a plan may have";
      CheckDtype(tensor.dtype);
      if (shape.size() > kMaxDims)
        TVM_FFI_THROW(ValueError) << "has " << shape.size() << " dimensions, expected at most "
                                  << kMaxDims;
      const bool binds = tensor.kind == Kind::kInput || tensor.kind == Kind::kParameter;
      for (const std::string& size : shape) {
        tensor.shape.push_back(SizeExpression::Parse(size, binds, &symbols_));
      }
    });
  } catch (...) {
    symbols_.resize(symbols);
    throw;
  }
  tensor.root = tensor.kind == Kind::kView ? tensors_[tensor.source].root : index;
  if (!tensor.name.empty()) names_.insert(tensor.name);
  tensors_.push_back(std::move(tensor));
  return index;
}

int32_t Program::AddNamed(PlanTensor tensor, Sizes shape) {
  At(KindName(tensor.kind), [&] { CheckName(tensor.name); });
  if (names_.contains(tensor.name))
    Refuse(KindName(tensor.kind), " ", Quoted(tensor.name), ": another tensor has this name");
  return Add(std::move(tensor), shape);
}

int32_t Program::AddInput(const std::string& name, DLDataType dtype, Sizes shape) {
  return AddNamed({.kind = Kind::kInput, .name = name, .dtype = dtype}, shape);
}

int32_t Program::AddParameter(const std::string& name, DLDataType dtype, Sizes shape) {
  return AddNamed({.kind = Kind::kParameter, .name = name, .dtype = dtype}, shape);
}

int32_t Program::AddConstant(const std::string& name, DLDataType dtype, Sizes shape,
                             Constant constant) {
  // Compared before it is added, with sizes that may be numbers only.
  At("constant " + Quoted(name), [&] {
    CheckDtype(dtype);
    std::vector<std::string> none;
    int64_t bytes = DtypeBytes(dtype);
    for (const std::string& size : shape) {
      const SizeExpression expression = SizeExpression::Parse(size, false, &none);
      if (!expression.is_number())
        TVM_FFI_THROW(ValueError) << "has size " << Quoted(size) << ", expected a number";
      if (__builtin_mul_overflow(bytes, expression.Evaluate({}), &bytes))
        TVM_FFI_THROW(ValueError) << "has more bytes than fit 64 bits";
    }
    if (bytes != constant.bytes)
      TVM_FFI_THROW(ValueError) << "has " << constant.bytes << " bytes, expected " << bytes
                                << " (from its shape)";
  });
  return AddNamed({.kind = Kind::kConstant,
                   .name = name,
                   .dtype = dtype,
                   .owner = std::move(constant.owner),
                   .data = constant.data,
                   .bytes = constant.bytes},
                  shape);
}

int32_t Program::AddBuffer(DLDataType dtype, Sizes shape) {
  return Add({.kind = Kind::kBuffer, .dtype = dtype}, shape);
}

int32_t Program::AddView(int32_t source, Sizes shape, const std::string& offset) {
  At("view " + std::to_string(tensors_.size()), [&] { CheckIndex(source); });
  PlanTensor view{.kind = Kind::kView, .dtype = tensors_[source].dtype, .source = source};
  At("view " + std::to_string(tensors_.size()),
     [&] { view.offset = SizeExpression::Parse(offset, false, &symbols_); });
  return Add(std::move(view), shape);
}

void Program::CheckIndex(int32_t index) const {
  if (index >= 0 && index < static_cast<int64_t>(tensors_.size())) return;
  TVM_FFI_THROW(ValueError) << "there is no tensor " << index << ", the plan has "
                            << tensors_.size();
}

// ---- calls --------------------------------------------------------------------------------------

void Program::AddCall(const std::string& function, std::vector<PlanArgument> arguments,
                      const Permission& permission) {
  At("step " + std::to_string(calls_.size()), [&] { CheckName(function); });
  At(StepName(calls_.size(), function), [&] {
    auto& found = functions_[function];
    if (found == nullptr) {
      found = std::make_shared<const PlanFunction>(FindPlanFunction(function, permission));
    }
    PlanCall call{function, found, std::move(arguments)};
    CheckArguments(call);
    Mark(call);
    calls_.push_back(std::move(call));
  });
}

void Program::CheckArguments(const PlanCall& call) const {
  const PlanFunction& function = *call.function;
  if (function.parameters && function.parameters->size() != call.arguments.size())
    TVM_FFI_THROW(ValueError) << "has " << call.arguments.size() << " arguments, expected "
                              << function.parameters->size();
  for (size_t i = 0; i < call.arguments.size(); ++i) CheckArgument(call, i);
}

void Program::CheckArgument(const PlanCall& call, size_t position) const {
  const PlanArgument& argument = call.arguments[position];
  const PlanFunction& function = *call.function;
  const bool known = position < function.tensors.size();
  if (function.parameters && !Matches((*function.parameters)[position], argument)) {
    const ParameterType& type = (*function.parameters)[position];
    TVM_FFI_THROW(ValueError) << "argument " << position
                              << (known ? " (" + function.tensors[position].name + ")" : "")
                              << " is " << ArgumentName(argument) << ", expected " << type.name;
  }
  if (const auto* text = std::get_if<std::string>(&argument); text != nullptr && !IsUtf8(*text))
    TVM_FFI_THROW(ValueError) << "argument " << position << " is " << Quoted(*text)
                              << ", expected UTF-8";
  const auto* tensor = std::get_if<PlanTensorIndex>(&argument);
  if (tensor == nullptr) return;
  CheckIndex(tensor->index);
  if (known) CheckUse(function.tensors[position], tensor->index);
}

void Program::CheckUse(const TensorSpec& spec, int32_t index) const {
  const PlanTensor& root = tensors_[tensors_[index].root];
  if (spec.use != TensorSpec::Use::kInput && root.kind == Kind::kConstant)
    TVM_FFI_THROW(ValueError) << "writes " << spec.name << " to " << TensorName(index)
                              << ", whose values are constant";
  if (spec.use != TensorSpec::Use::kOutput && root.kind == Kind::kBuffer && !root.written &&
      !root.may_be_written)
    TVM_FFI_THROW(ValueError) << "reads " << spec.name << " from " << TensorName(index)
                              << ", which no step before writes";
}

void Program::Mark(const PlanCall& call) {
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    const auto* tensor = std::get_if<PlanTensorIndex>(&call.arguments[i]);
    if (tensor == nullptr) continue;
    PlanTensor& root = tensors_[tensors_[tensor->index].root];
    if (i >= call.function->tensors.size()) {
      root.may_be_written = true;
    } else if (call.function->tensors[i].use != TensorSpec::Use::kInput) {
      root.written = true;
    }
  }
}

// ---- results ------------------------------------------------------------------------------------

void Program::AddOutput(const std::string& name, int32_t tensor) {
  At("output", [&] { CheckName(name); });
  At("output " + Quoted(name), [&] {
    CheckIndex(tensor);
    if (output_names_.contains(name)) TVM_FFI_THROW(ValueError) << "another output has this name";
    const PlanTensor& given = tensors_[tensor];
    const Kind kind = tensors_[given.root].kind;
    if (kind != Kind::kBuffer && given.kind != Kind::kInput)
      TVM_FFI_THROW(ValueError) << "is " << TensorName(tensor) << ", expected a buffer or an input";
    if (kind == Kind::kBuffer && !output_roots_.insert(given.root).second)
      TVM_FFI_THROW(ValueError) << "is " << TensorName(tensor) << ", which is an output already";
  });
  output_names_.insert(name);
  outputs_.push_back({name, tensor});
}

void Program::CheckComplete() const {
  for (const PlanOutput& output : outputs_) {
    const PlanTensor& root = tensors_[tensors_[output.tensor].root];
    if (root.kind != Kind::kBuffer || root.written || root.may_be_written) continue;
    Refuse("output ", Quoted(output.name), ": no step writes ", TensorName(output.tensor));
  }
}

}  // namespace mlf
