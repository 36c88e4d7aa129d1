// Checks and dispatch of ops that are declared at run time. Counterpart: declared_op.h.
#include "base/declared_op.h"

#include <tvm/ffi/extra/json.h>

#include <memory>
#include <optional>
#include <utility>

#include "base/borrowed_tensor.h"
#include "base/device_library.h"
#include "base/registry.h"

namespace mlf {

namespace {

/// A bad signature is a bug of this library in its own ops, and of the caller in others.
template <typename Fn>
void BlameCaller(Fn&& fn) {
  try {
    fn();
  } catch (const ffi::Error& error) {
    if (error.kind() != "InternalError") throw;
    TVM_FFI_THROW(ValueError) << error.message();
  }
}

}  // namespace

DeclaredOp::DeclaredOp(std::string name, std::string_view signature)
    : name_(std::move(name)), signature_(name_.c_str()) {
  SignatureParser parser(signature_, signature);
  BlameCaller([&] {
    parser.Parse();
    parser.RefuseUnchecked();
  });
  arguments_ = parser.Arguments();
}

void DeclaredOp::Call(const ffi::AnyView* given, int32_t count) const {
  if (static_cast<size_t>(count) != arguments_.size()) {
    TVM_FFI_THROW(TypeError) << name_ << ": expected " << arguments_.size() << " arguments, got "
                             << count;
  }
  std::vector<std::optional<TensorView>> views;
  std::vector<ffi::Any> attributes;
  std::vector<ffi::Tensor> borrowed;
  views.reserve(count);
  attributes.reserve(count);
  std::vector<ffi::AnyView> passed(given, given + count);
  for (int32_t i = 0; i < count; ++i) {
    const ArgumentSpec& argument = arguments_[i];
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
  // A kernel may be a function of Python, which can share objects alone.
  for (int32_t i = 0, tensor = 0; i < count; ++i) {
    if (arguments_[i].kind != "tensor") continue;
    const TensorView* view = pointers[tensor++];
    if (view == nullptr || given[i].type_index() != ffi::TypeIndex::kTVMFFIDLTensorPtr) continue;
    borrowed.push_back(
        BorrowTensor(view->shape(), view->dtype(), view->device(), Data<void>(*view)));
    passed[i] = borrowed.back();
  }
  ffi::Any nothing;
  FindDeviceKernel(name_.c_str(), device.value_or(DLDevice{kDLCPU, 0}))
      .CallPacked(passed.data(), count, &nothing);
}

ffi::Any DeclaredOp::Converted(const ffi::AnyView& value, size_t position) const {
  const ArgumentSpec& argument = arguments_[position];
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
  const ArgumentSpec& argument = arguments_[position];
  // As tvm-ffi words it for functions of C++, because callers name the argument by it.
  TVM_FFI_THROW(TypeError) << "Mismatched type on argument #" << position << " when calling `"
                           << name_ << "`: " << argument.name << " is " << value.GetTypeKey()
                           << ", expected " << argument.kind;
}

std::string DeclaredOp::TypeSchema() const {
  std::string params;
  for (const ArgumentSpec& argument : arguments_) {
    const char* type = argument.kind == "tensor"   ? "DLTensor*"
                       : argument.kind == "choice" ? "ffi.String"
                                                   : argument.kind.c_str();
    const std::string one = std::string(R"({"type":")") + type + "\"}";
    params += params.empty() ? "" : ",";
    params += argument.optional ? R"({"type":"Optional","args":[)" + one + "]}" : one;
  }
  return R"({"type":"ffi.Function","named_args":{"return":[{"type":"None"}],"params":[)" + params +
         "]}}";
}

// ---- the registry -------------------------------------------------------------------------------

namespace {

constexpr const char* kPrefix = "my_llm_ffi.";

/// What `my_llm_ffi.<name>` was registered with; no entry "op" when it is no op, or nothing.
ffi::json::Object MetadataOf(const std::string& name) {
  if (!ffi::Function::GetGlobal(kPrefix + name)) return {};
  const auto text = ffi::Function::GetGlobalRequired("ffi.GetGlobalFuncMetadata")(kPrefix + name)
                        .cast<ffi::String>();
  return text.empty() ? ffi::json::Object() : ffi::json::Parse(text).cast<ffi::json::Object>();
}

/// A schema as people read it: "DLTensor*,Optional<DLTensor*>,float".
std::string ReadableTypes(std::string schema) {
  const size_t begin = schema.find("\"params\":[");
  if (begin == std::string::npos) return schema;
  schema = schema.substr(begin + 10, schema.size() - begin - 13);
  const std::pair<std::string_view, std::string_view> changes[] = {
      {"\",\"args\":[", "<"}, {"]}", ">"}, {"\"}", ""}, {R"({"type":")", ""}, {",", ", "}};
  for (const auto& [from, to] : changes) {
    for (size_t at = 0; (at = schema.find(from, at)) != std::string::npos; at += to.size()) {
      schema.replace(at, from.size(), to);
    }
  }
  return "(" + schema + ")";
}

}  // namespace

void DeclareOp(const ffi::String& name, const ffi::String& signature, const ffi::String& doc) {
  const std::string full = kPrefix + std::string(name);
  if (!IsIdentifier({name.data(), name.size()}))
    TVM_FFI_THROW(ValueError) << "declare_op: name is '" << name << "', expected an identifier";
  if (ffi::Function::GetGlobal(full))
    TVM_FFI_THROW(ValueError) << "declare_op: " << full << " is registered already";
  const auto op = std::make_shared<const DeclaredOp>(
      std::string(name), std::string_view(signature.data(), signature.size()));
  const auto function = GuardedFunction::Packed(
      full, [op](const ffi::AnyView* args, int32_t count, ffi::Any*) { op->Call(args, count); });
  // "declared": the op has no kernel inside this library.
  RegisterFunction(full, function.function(), op->TypeSchema(), nullptr,
                   {{"op", signature}, {"doc", doc}, {"declared", "true"}});
  if (DeclaredNames::innermost != nullptr) DeclaredNames::innermost->names_.push_back(name);
}

void RegisterKernel(const ffi::String& name, const ffi::String& device, const ffi::Function& kernel,
                    const ffi::String& type_schema) {
  const ffi::json::Object metadata = MetadataOf(name);
  if (metadata.count("op") == 0)
    TVM_FFI_THROW(KeyError) << "register_kernel: no op is declared as " << name;
  const bool declared = metadata.count("declared") != 0;
  const std::string slot = kPrefix + std::string(name) + "." + std::string(device);
  if ((device == "cpu" && !declared) || ffi::Function::GetGlobal(slot))
    TVM_FFI_THROW(ValueError) << "register_kernel: " << name << " has a kernel for " << device;
  // Kernels of ops of this library take what kernels/<stem>.h says, which may be other than the op.
  const auto expected = metadata["type_schema"].cast<ffi::String>();
  if (declared && !type_schema.empty() && type_schema != expected) {
    TVM_FFI_THROW(TypeError) << "register_kernel: the kernel of " << name << " for " << device
                             << " takes " << ReadableTypes(type_schema) << ", expected "
                             << ReadableTypes(expected);
  }
  RegisterFunction(slot, kernel, declared ? expected : type_schema, nullptr, {});
}

namespace {

TVM_FFI_STATIC_INIT_BLOCK() {
  // Without metadata, because generated clients have my_llm_ffi/declare.h for these.
  FunctionDef()
      .def("my_llm_ffi.declare_op", DeclareOp,
           "name, signature, doc: declares an op whose kernels are registered as "
           "my_llm_ffi.<name>.<device>")
      .def("my_llm_ffi.register_kernel", RegisterKernel,
           "name, device, kernel, type_schema: fills a slot of an op; an empty schema is not "
           "compared with the op's");
}

}  // namespace
}  // namespace mlf
