// Checks and dispatch of ops that are declared at run time. Counterpart: declared_op.h.
#include "base/declared_op.h"

#include <memory>
#include <optional>
#include <utility>

#include "base/device_library.h"
#include "base/memory_guard.h"

namespace mlf {

DeclaredOp::DeclaredOp(std::string name, const std::string& signature,
                       std::vector<Argument> arguments)
    : name_(std::move(name)),
      arguments_(std::move(arguments)),
      signature_(name_.c_str(), signature) {}

void DeclaredOp::Call(const ffi::AnyView* given, int32_t count) const {
  if (static_cast<size_t>(count) != arguments_.size()) {
    TVM_FFI_THROW(TypeError) << name_ << ": expected " << arguments_.size() << " arguments, got "
                             << count;
  }
  std::vector<std::optional<TensorView>> views;
  std::vector<ffi::Any> attributes;
  views.reserve(count);
  attributes.reserve(count);
  std::vector<ffi::AnyView> passed(given, given + count);
  for (int32_t i = 0; i < count; ++i) {
    const Argument& argument = arguments_[i];
    const bool absent = given[i].type_index() == ffi::TypeIndex::kTVMFFINone && argument.optional;
    if (argument.kind == "tensor") {
      views.push_back(absent ? std::nullopt : given[i].try_cast<TensorView>());
      if (!absent && !views.back()) ThrowMismatch(given[i], i);
    } else if (!absent) {
      attributes.push_back(Converted(given[i], i));
      passed[i] = attributes.back();
    }
  }
  std::vector<const TensorView*> pointers;
  std::optional<DLDevice> device;
  for (const std::optional<TensorView>& view : views) {
    pointers.push_back(view ? &*view : nullptr);
    if (view && !device) device = view->device();
  }
  signature_.Check(pointers.data(), pointers.size());
  ffi::Any nothing;
  FindDeviceKernel(name_.c_str(), device.value_or(DLDevice{kDLCPU, 0}))
      .CallPacked(passed.data(), count, &nothing);
}

ffi::Any DeclaredOp::Converted(const ffi::AnyView& value, size_t position) const {
  const Argument& argument = arguments_[position];
  if (argument.kind == "float") {
    if (const auto number = value.try_cast<double>()) return ffi::Any(*number);
  } else if (argument.kind == "int") {
    if (const auto number = value.try_cast<int64_t>()) return ffi::Any(*number);
  } else if (argument.kind == "bool") {
    if (const auto flag = value.try_cast<bool>()) return ffi::Any(*flag);
  } else if (const auto text = value.try_cast<ffi::String>()) {
    if (argument.kind == "choice") signature_.Choice(argument.name, {text->data(), text->size()});
    return ffi::Any(*text);
  }
  ThrowMismatch(value, position);
}

void DeclaredOp::ThrowMismatch(const ffi::AnyView& value, size_t position) const {
  const Argument& argument = arguments_[position];
  // As tvm-ffi words it for functions of C++, because callers name the argument by it.
  TVM_FFI_THROW(TypeError) << "Mismatched type on argument #" << position << " when calling `"
                           << name_ << "`: " << argument.name << " is " << value.GetTypeKey()
                           << ", expected " << argument.kind;
}

namespace {

/// Registers an op: its metadata is what other ops have (op.h), made by the caller.
void Declare(const ffi::String& name, const ffi::String& signature, const ffi::String& metadata,
             const ffi::Array<ffi::String>& names, const ffi::Array<ffi::String>& kinds,
             const ffi::Array<bool>& optional) {
  if (names.size() != kinds.size() || names.size() != optional.size())
    TVM_FFI_THROW(InternalError) << "declare_op: names, kinds and optional differ in length";
  std::vector<DeclaredOp::Argument> arguments;
  for (size_t i = 0; i < names.size(); ++i) {
    arguments.push_back({std::string(names[i]), std::string(kinds[i]), optional[i]});
  }
  const auto op = std::make_shared<const DeclaredOp>(std::string(name), std::string(signature),
                                                     std::move(arguments));
  const std::string full = "my_llm_ffi." + std::string(name);
  const ffi::Function function =
      ffi::Function::FromPacked([op, full](const ffi::AnyView* args, int32_t count, ffi::Any*) {
        const ExitGate gate;
        WithMemoryErrors(full, [&] { op->Call(args, count); });
      });
  TVMFFIMethodInfo info{};
  info.name = {full.data(), full.size()};
  info.doc = {nullptr, 0};
  info.flags = 0;
  info.method = ffi::AnyView(function).CopyToTVMFFIAny();
  info.metadata = {metadata.data(), metadata.size()};
  TVM_FFI_CHECK_SAFE_CALL(TVMFFIFunctionSetGlobalFromMethodInfo(&info, 0));
}

TVM_FFI_STATIC_INIT_BLOCK() {
  FunctionDef().def(
      "my_llm_ffi.declare_op", Declare,
      "name, signature, metadata as JSON; names, kinds and optional of the arguments: "
      "declares an op whose kernels are registered as my_llm_ffi.<name>.<device>");
}

}  // namespace
}  // namespace mlf
