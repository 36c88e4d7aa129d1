// my_llm_ffi.PlanBuilder, PlanValue and Plan across the border. Nobody includes this file.
#include "plan/plan.h"

#include <algorithm>

#include "base/quote.h"
#include "ffi/objects.h"
#include "plan/constant_memory.h"
#include "plan/plan_file.h"
#include "runtime/exclusive.h"

namespace mlf {
namespace {

/// A tensor of a plan, as callers see it.
class PlanValueObj : public ffi::Object {
 public:
  PlanValueObj(const Program& program, int32_t index, const std::string& name)
      : index(index),
        name(name),
        dtype(program.tensors()[index].dtype),
        program_identity(program.identity()) {
    for (const SizeExpression& size : program.tensors()[index].shape) {
      shape.push_back(ffi::String(size.text()));
    }
    const PlanTensor& root = program.tensors()[program.tensors()[index].root];
    written = root.written || root.may_be_written;
  }

  int64_t index;
  ffi::String name;
  DLDataType dtype;
  ffi::Array<ffi::String> shape;
  bool written;
  std::shared_ptr<const char> program_identity;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.PlanValue", PlanValueObj, ffi::Object);
};

class PlanBuilderObj : public ffi::Object {
 public:
  Program program;
  ConstantMemory constants;
  std::atomic_flag in_use = ATOMIC_FLAG_INIT;
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.PlanBuilder", PlanBuilderObj, ffi::Object);
};

class PlanObj : public ffi::Object {
 public:
  explicit PlanObj(Program program) : plan(std::move(program)) {}
  Plan plan;
  std::atomic_flag in_use = ATOMIC_FLAG_INIT;
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Plan", PlanObj, ffi::Object);
};

MLF_OBJECT_REF(PlanValueRef, PlanValueObj);
MLF_OBJECT_REF(PlanBuilderRef, PlanBuilderObj);
MLF_OBJECT_REF(PlanRef, PlanObj);

using SizeArgument = ffi::Variant<int64_t, ffi::String>;
using Sizes = ffi::Array<SizeArgument>;

std::string ToText(const SizeArgument& size) {
  if (const auto number = size.as<int64_t>()) return std::to_string(*number);
  return std::string(size.get<ffi::String>());
}

std::vector<std::string> ToTexts(const Sizes& sizes) {
  std::vector<std::string> texts;
  for (const SizeArgument& size : sizes) texts.push_back(ToText(size));
  return texts;
}

PlanValueRef ValueOf(const Program& program, int32_t index, const std::string& name) {
  return PlanValueRef(ffi::make_object<PlanValueObj>(program, index, name));
}

PlanValueRef ValueOf(const Program& program, int32_t index) {
  return ValueOf(program, index, program.tensors()[index].name);
}

/// ValueError where the value is that of another builder, whose index means another tensor here.
int32_t IndexOf(const Program& program, const PlanValueRef& value, const std::string& what) {
  if (value->program_identity != program.identity())
    TVM_FFI_THROW(ValueError) << "plan: " << what << " is a value of another builder";
  return static_cast<int32_t>(value->index);
}

// ---- building -----------------------------------------------------------------------------------

PlanValueRef AddConstant(const PlanBuilderRef& self, const ffi::String& name,
                         const ffi::Tensor& tensor) {
  const ExclusiveUse exclusive(self->in_use, "PlanBuilder");
  const TensorView view(tensor);
  const std::string text = name;
  if (view.device().device_type != kDLCPU || !view.IsContiguous())
    TVM_FFI_THROW(ValueError) << "plan: constant " << Quoted(text)
                              << " must be contiguous and on the CPU";
  std::vector<std::string> shape;
  for (int i = 0; i < view.ndim(); ++i) shape.push_back(std::to_string(view.size(i)));
  const int64_t bytes = view.numel() * DtypeBytes(view.dtype());
  return ValueOf(self->program,
                 self->program.AddConstant(
                     text, view.dtype(), shape,
                     self->constants.Copy("constant " + Quoted(text), Data<void>(view), bytes)));
}

PlanArgument ToArgument(const Program& program, const ffi::Any& value, size_t position) {
  switch (value.type_index()) {
    case ffi::TypeIndex::kTVMFFINone:
      return std::monostate();
    case ffi::TypeIndex::kTVMFFIBool:
      return value.cast<bool>();
    case ffi::TypeIndex::kTVMFFIInt:
      return value.cast<int64_t>();
    case ffi::TypeIndex::kTVMFFIFloat:
      return value.cast<double>();
    default:
      break;
  }
  const std::string name = "argument " + std::to_string(position);
  if (const auto tensor = value.as<PlanValueRef>())
    return PlanTensorIndex{IndexOf(program, *tensor, name)};
  if (const auto text = value.as<ffi::String>()) return std::string(*text);
  TVM_FFI_THROW(TypeError) << "plan: " << name << " is " << value.GetTypeKey()
                           << ", expected a PlanValue, None, a number, a bool or text";
}

void AddCall(const PlanBuilderRef& self, const ffi::String& function,
             const ffi::Array<ffi::Any>& arguments) {
  const ExclusiveUse exclusive(self->in_use, "PlanBuilder");
  std::vector<PlanArgument> list;
  for (const ffi::Any& value : arguments) {
    list.push_back(ToArgument(self->program, value, list.size()));
  }
  self->program.AddCall(function, std::move(list), Permission::All());
}

void RegisterBuilder() {
  MethodDef<PlanBuilderObj>()
      .def_static(
          "create", [] { return PlanBuilderRef(ffi::make_object<PlanBuilderObj>()); },
          "(): An empty plan.")
      .def(
          "input",
          [](const PlanBuilderRef& self, const ffi::String& name, DLDataType dtype,
             const Sizes& shape) {
            const ExclusiveUse exclusive(self->in_use, "PlanBuilder");
            return ValueOf(self->program, self->program.AddInput(name, dtype, ToTexts(shape)));
          },
          "(name, dtype, shape): A tensor of each run; sizes are numbers, names, or "
          "expressions of names.")
      .def(
          "parameter",
          [](const PlanBuilderRef& self, const ffi::String& name, DLDataType dtype,
             const Sizes& shape) {
            const ExclusiveUse exclusive(self->in_use, "PlanBuilder");
            return ValueOf(self->program, self->program.AddParameter(name, dtype, ToTexts(shape)));
          },
          "(name, dtype, shape): A tensor that Plan.bind gives.")
      .def("constant", AddConstant, "(name, tensor): A tensor with its values, which are copied.")
      .def(
          "buffer",
          [](const PlanBuilderRef& self, DLDataType dtype, const Sizes& shape) {
            const ExclusiveUse exclusive(self->in_use, "PlanBuilder");
            return ValueOf(self->program, self->program.AddBuffer(dtype, ToTexts(shape)));
          },
          "(dtype, shape): A tensor inside of the plan.")
      .def(
          "view",
          [](const PlanBuilderRef& self, const PlanValueRef& value, const Sizes& shape,
             const SizeArgument& offset) {
            const ExclusiveUse exclusive(self->in_use, "PlanBuilder");
            const int32_t source = IndexOf(self->program, value, "value");
            return ValueOf(self->program,
                           self->program.AddView(source, ToTexts(shape), ToText(offset)));
          },
          "(value, shape, offset = 0): Elements of another tensor, after the first "
          "offset ones.")
      .def("call", AddCall,
           "(function, arguments: Sequence[PlanArgument]): Calls a registered function by "
           "its full name in every run; arguments are PlanValue, None, int, float, bool, str.")
      .def(
          "output",
          [](const PlanBuilderRef& self, const ffi::String& name, const PlanValueRef& value) {
            const ExclusiveUse exclusive(self->in_use, "PlanBuilder");
            self->program.AddOutput(name, IndexOf(self->program, value, "value"));
          },
          "(name, value): Names a result: a buffer, or an input that was written.")
      .def(
          "build",
          [](const PlanBuilderRef& self) {
            const ExclusiveUse exclusive(self->in_use, "PlanBuilder");
            return PlanRef(ffi::make_object<PlanObj>(self->program));
          },
          "(): The plan; the builder may go on.");
}

// ---- running ------------------------------------------------------------------------------------

PlanRef Load(const PathArgument& path, const ffi::Array<ffi::String>& allow) {
  Permission permission;
  for (const ffi::String& name : allow) permission.names.insert(name);
  return PlanRef(ffi::make_object<PlanObj>(ReadPlanFile(ToPath(path), permission)));
}

const PlanObj* SelfOf(const ffi::AnyView* args, int32_t count, const char* method) {
  const auto self = count > 0 ? args[0].as<PlanRef>() : std::nullopt;
  if (!self) TVM_FFI_THROW(TypeError) << "Plan." << method << ": expected a Plan first";
  return self->get();
}

/// Arguments as tensors, on a stack of their own where they are few.
class TensorList {
 public:
  TensorList(const ffi::AnyView* args, int32_t count) {
    if (count > kFew) many_.resize(count);
    const DLTensor** out = count > kFew ? many_.data() : few_;
    for (int32_t i = 0; i < count; ++i) {
      const auto tensor = args[i].try_cast<DLTensor*>();
      if (!tensor || *tensor == nullptr)
        TVM_FFI_THROW(TypeError) << "plan: argument " << i << " is " << args[i].GetTypeKey()
                                 << ", expected a tensor";
      out[i] = *tensor;
    }
    tensors_ = {out, static_cast<size_t>(count)};
  }
  TensorList(const TensorList&) = delete;
  TensorList& operator=(const TensorList&) = delete;

  Plan::Tensors all() const { return tensors_; }

 private:
  static constexpr int32_t kFew = 32;
  const DLTensor* few_[kFew];
  std::vector<const DLTensor*> many_{};
  Plan::Tensors tensors_{};
};

void Run(const ffi::AnyView* args, int32_t count, ffi::Any*) {
  auto* self = const_cast<PlanObj*>(SelfOf(args, count, "run"));
  const TensorList tensors(args + 1, count - 1);
  const ExclusiveUse exclusive(self->in_use, "Plan");
  const size_t inputs = self->plan.inputs().size(), outputs = self->plan.made().size();
  if (tensors.all().size() != inputs + outputs)
    TVM_FFI_THROW(ValueError) << "plan: got " << tensors.all().size() << " tensors, expected "
                              << inputs << " inputs and " << outputs << " outputs";
  self->plan.Run(tensors.all().first(inputs), tensors.all().subspan(inputs));
}

void OutputShapes(const ffi::AnyView* args, int32_t count, ffi::Any* result) {
  auto* self = const_cast<PlanObj*>(SelfOf(args, count, "output_shapes"));
  const TensorList tensors(args + 1, count - 1);
  const ExclusiveUse exclusive(self->in_use, "Plan");
  const std::vector<ffi::Shape> shapes = self->plan.OutputShapes(tensors.all());
  *result = ffi::Array<ffi::Shape>(shapes.begin(), shapes.end());
}

/// For callers without arrays of their own: results in tensors of this library, on the CPU.
ffi::Array<ffi::Tensor> Compute(const PlanRef& self, const ffi::Array<ffi::Tensor>& inputs) {
  static const ffi::Function empty = ffi::Function::GetGlobalRequired("my_llm_ffi.empty");
  auto* object = const_cast<PlanObj*>(self.get());
  const ExclusiveUse exclusive(object->in_use, "Plan");
  Plan& plan = object->plan;
  std::vector<const DLTensor*> given, made;
  for (const ffi::Tensor& input : inputs) given.push_back(input.GetDLTensorPtr());
  const std::vector<ffi::Shape> shapes = plan.OutputShapes(given);
  ffi::Array<ffi::Tensor> results;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const int32_t tensor = plan.program().outputs()[i].tensor;
    const auto input = std::find(plan.inputs().begin(), plan.inputs().end(), tensor);
    if (input != plan.inputs().end()) {
      results.push_back(inputs[input - plan.inputs().begin()]);
      continue;
    }
    results.push_back(empty(shapes[i], plan.program().tensors()[tensor].dtype, DLDevice{kDLCPU, 0})
                          .cast<ffi::Tensor>());
    made.push_back(results[results.size() - 1].GetDLTensorPtr());
  }
  plan.Run(given, made);
  return results;
}

ffi::Array<PlanValueRef> ValuesOf(const Program& program, const std::vector<int32_t>& tensors) {
  ffi::Array<PlanValueRef> values;
  for (const int32_t index : tensors) values.push_back(ValueOf(program, index));
  return values;
}

ffi::Array<PlanValueRef> Outputs(const PlanRef& self) {
  const Program& program = self->plan.program();
  ffi::Array<PlanValueRef> values;
  for (const PlanOutput& output : program.outputs()) {
    values.push_back(ValueOf(program, output.tensor, output.name));
  }
  return values;
}

void RegisterPlan() {
  MethodDef<PlanObj>()
      .def_static("load", Load,
                  "(path, allow = ()): Opens a plan's file; allow: full names of functions "
                  "that it may call besides ops.")
      .def(
          "save",
          [](const PlanRef& self, const PathArgument& path) {
            WritePlanFile(ToPath(path), self->plan.program());
          },
          "(path): Writes the plan with its constants.")
      .def(
          "inputs",
          [](const PlanRef& self) { return ValuesOf(self->plan.program(), self->plan.inputs()); },
          "(): What each run is given, in order.")
      .def(
          "parameters",
          [](const PlanRef& self) {
            return ValuesOf(self->plan.program(), self->plan.parameters());
          },
          "(): What bind gives.")
      .def("outputs", Outputs, "(): What each run makes, in order.")
      .def(
          "bind",
          [](const PlanRef& self, const ffi::String& name, const ffi::Tensor& tensor) {
            auto* object = const_cast<PlanObj*>(self.get());
            const ExclusiveUse exclusive(object->in_use, "Plan");
            object->plan.Bind(std::string(name), tensor);
          },
          "(name, tensor): Gives a parameter its tensor, which is shared.")
      .def_packed("run", Run,
                  "(*tensors): Runs all calls: all inputs in their order, then a tensor for "
                  "each output that is no input.")
      .def_packed("output_shapes", OutputShapes,
                  "(*inputs) -> Sequence[Sequence[int]]: Sizes of all outputs.")
      .def("compute", Compute, "(inputs): Runs all calls: all outputs, in tensors made on the CPU.")
      .def(
          "storage_bytes", [](const PlanRef& self) { return self->plan.storage_bytes(); },
          "(): Bytes that buffers share, as of the last run.")
      .def(
          "n_calls",
          [](const PlanRef& self) {
            return static_cast<int64_t>(self->plan.program().calls().size());
          },
          "(): Calls of each run.");
}

TVM_FFI_STATIC_INIT_BLOCK() {
  ffi::reflection::ObjectDef<PlanValueObj>()
      .def_ro("index", &PlanValueObj::index, "Its number in the plan.")
      .def_ro("name", &PlanValueObj::name, "Its name; empty where it has none.")
      .def_ro("dtype", &PlanValueObj::dtype, "Type of its elements.")
      .def_ro("shape", &PlanValueObj::shape, "Its sizes: numbers, names, expressions.")
      .def_ro("written", &PlanValueObj::written, "Whether a call writes it.");
  RegisterBuilder();
  RegisterPlan();
}

}  // namespace
}  // namespace mlf
