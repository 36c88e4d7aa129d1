// Counterpart: declaration.h.
#include "tensorrt/declaration.h"

#include <tvm/ffi/extra/json.h>

#include <charconv>
#include <utility>

#include "base/signature_parser.h"

namespace mlf::tensorrt {
namespace {

// python/my_llm_ffi/tensorrt/op_plugins.py has the same list.
constexpr const char* kOps[] = {"rms_norm", "add_rms_norm", "silu_mul",
                                "rope",     "mask_logits",  "paged_attention"};

std::string CamelCase(std::string_view op) {
  std::string name;
  bool upper = true;
  for (const char c : op) {
    if (c != '_') name += upper && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    upper = c == '_';
  }
  return name;
}

std::string SignatureOf(const std::string& function) {
  const auto text =
      ffi::Function::GetGlobalRequired("ffi.GetGlobalFuncMetadata")(function).cast<ffi::String>();
  return std::string(ffi::json::Parse(text).cast<ffi::json::Object>()["op"].cast<ffi::String>());
}

template <typename Number>
ffi::Any NumberIn(const std::string& text) {
  Number value{};
  std::from_chars(text.data(), text.data() + text.size(), value);  // the parser let it pass
  return ffi::Any(value);
}

/// Of an option, whose text the parser of signatures let pass.
std::optional<ffi::Any> Fallback(const ArgumentSpec& option, FieldKind kind) {
  const std::string& text = option.fallback;
  if (text.empty()) return std::nullopt;
  if (text == "None") return ffi::Any(nullptr);
  switch (kind) {
    case FieldKind::kBool:
      return ffi::Any(text == "True");
    case FieldKind::kInt:
      return NumberIn<int64_t>(text);
    case FieldKind::kFloat:
      return NumberIn<double>(text);
    case FieldKind::kText:
      return ffi::Any(ffi::String(text.substr(1, text.size() - 2)));  // without its quotes
  }
  return std::nullopt;
}

FieldSpec OptionField(const ArgumentSpec& option) {
  const FieldKind kind = option.kind == "bool"    ? FieldKind::kBool
                         : option.kind == "int"   ? FieldKind::kInt
                         : option.kind == "float" ? FieldKind::kFloat
                                                  : FieldKind::kText;
  return {option.name, kind, option.kind == "choice", Fallback(option, kind)};
}

/// Reads tensors and options; fields are the options, then one for each optional input.
void Read(Declaration& declaration, const std::string& text) {
  SignatureParser parser(declaration.signature, text);
  parser.Parse();
  for (const ArgumentSpec& argument : parser.Arguments()) {
    if (argument.kind != "tensor") declaration.fields.push_back(OptionField(argument));
  }
  for (const TensorSpec& tensor : declaration.signature.tensors()) {
    declaration.presence.emplace_back();
    if (!tensor.optional) continue;
    declaration.presence.back() = declaration.fields.size();
    declaration.fields.push_back({"has_" + tensor.name, FieldKind::kBool, false, ffi::Any(false)});
  }
}

/// Throws for what an op may say and a plugin cannot.
void RefuseUnfit(const Declaration& d) {
  const auto refuse = [&d](const std::string& tensor, const char* what) {
    TVM_FFI_THROW(ValueError) << d.name << ": " << tensor << " " << what;
  };
  for (const TensorSpec& tensor : d.signature.tensors()) {
    if (tensor.use == TensorSpec::Use::kMutable && tensor.optional)
      refuse(tensor.name, "is optional and written in place, which no plugin can be asked for");
    if (tensor.use != TensorSpec::Use::kOutput) continue;
    for (const DimSpec& dim : tensor.dims) {
      if (dim.kind == DimSpec::Kind::kExpression)
        refuse(tensor.name, "has a size that is computed, which creators of C++ do not read");
    }
  }
  if (d.signature.tensors().size() > kMaxTensors || d.arguments.size() > kMaxArguments)
    refuse("the op", "has too many arguments");
}

std::unique_ptr<const Declaration> OfOp(const std::string& op) {
  auto made = std::make_unique<Declaration>(CamelCase(op));
  const std::string function = "my_llm_ffi." + op;
  Read(*made, SignatureOf(function));
  made->function = ffi::Function::GetGlobalRequired(function);
  using From = ArgumentSource::From;
  const size_t tensors = made->signature.tensors().size();
  for (size_t i = 0; i < tensors; ++i) made->arguments.push_back({From::kTensor, i});
  size_t options = made->fields.size();
  for (const auto& field : made->presence) options -= field.has_value();
  for (size_t i = 0; i < options; ++i) made->arguments.push_back({From::kField, i});
  RefuseUnfit(*made);
  return made;
}

/// The one plugin that is not its op word for word: it has other options and another order.
std::unique_ptr<const Declaration> LookUp() {
  auto made = std::make_unique<Declaration>("LookUp");
  Read(*made,
       "(index: T['*batch', 'i32 i64'], table: T['n width', 'f32 f16 bf16'], *, "
       "use_torch_tensor: bool = False, fp32_output: bool = False) -> "
       "T['*batch width', 'like table or f32']");
  made->widening = 1;
  made->function = ffi::Function::GetGlobalRequired("my_llm_ffi.embedding_lookup");
  using From = ArgumentSource::From;
  // table, ids, out, format, packed, rows
  made->arguments = {{From::kTensor, 1},
                     {From::kTensor, 0},
                     {From::kTensor, 2},
                     {From::kConstant},
                     {From::kConstant, 0, ffi::Any(false)},
                     {From::kConstant}};
  RefuseUnfit(*made);
  return made;
}

}  // namespace

std::vector<std::unique_ptr<const Declaration>> ShippedPlugins() {
  std::vector<std::unique_ptr<const Declaration>> plugins;
  plugins.push_back(LookUp());
  for (const char* op : kOps) plugins.push_back(OfOp(op));
  return plugins;
}

}  // namespace mlf::tensorrt
