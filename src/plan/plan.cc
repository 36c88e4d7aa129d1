// The border of a plan: what it is given. Counterparts: plan.h, plan_sizes.cc, plan_steps.cc.
#include "plan/plan.h"

#include <algorithm>
#include <set>
#include <sstream>
#include <utility>

#include "base/dtype.h"
#include "base/interrupt.h"
#include "base/quote.h"

namespace mlf {
namespace {

using Kind = PlanTensor::Kind;

uint8_t* DataOf(const DLTensor& t) { return static_cast<uint8_t*>(t.data) + t.byte_offset; }

bool SameDevice(DLDevice a, DLDevice b) {
  return a.device_type == b.device_type && a.device_id == b.device_id;
}

std::string DeviceText(DLDevice d) {
  return std::to_string(d.device_type) + ":" + std::to_string(d.device_id);
}

bool IsEmpty(const DLTensor& t) {
  return std::find(t.shape, t.shape + t.ndim, 0) != t.shape + t.ndim;
}

bool IsContiguous(const DLTensor& t) {
  if (t.strides == nullptr) return true;
  int64_t expected = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    if (t.shape[i] != 1 && t.strides[i] != expected) return IsEmpty(t);
    expected *= t.shape[i];
  }
  return true;
}

}  // namespace

Plan::Plan(Program program) : program_(std::move(program)) {
  program_.CheckComplete();
  ListBorder();
  LayOutTensors();
  CopyExposedConstants();
  LayOutSteps();
  FindLives();
}

void Plan::ListBorder() {
  const std::vector<PlanTensor>& tensors = program_.tensors();
  std::set<int64_t> bound;
  for (int32_t i = 0; i < static_cast<int32_t>(tensors.size()); ++i) {
    const PlanTensor& t = tensors[i];
    if (t.kind != Kind::kInput && t.kind != Kind::kParameter) continue;
    Bringer bringer{i, t.kind == Kind::kParameter, {}};
    for (const SizeExpression& size : t.shape) {
      bringer.binds.push_back(size.symbol() >= 0 && bound.insert(size.symbol()).second);
    }
    (bringer.is_parameter ? parameters_ : inputs_).push_back(i);
    bringers_.push_back(std::move(bringer));
  }
  for (const PlanOutput& output : program_.outputs()) {
    if (tensors[output.tensor].kind != Kind::kInput) made_.push_back(output);
  }
  bound_.resize(parameters_.size());
  symbols_.assign(program_.symbols().size(), -1);
}

std::string Plan::GivenName(int32_t tensor) const {
  for (const PlanOutput& output : made_) {
    if (program_.tensors()[output.tensor].root == tensor) return "output " + Quoted(output.name);
  }
  return program_.TensorName(tensor);
}

// ---- what a run is given ------------------------------------------------------------------------

void Plan::Bind(std::string_view name, ffi::Tensor tensor) {
  const auto found = std::find_if(parameters_.begin(), parameters_.end(),
                                  [&](int32_t i) { return program_.tensors()[i].name == name; });
  if (found == parameters_.end())
    TVM_FFI_THROW(ValueError) << "plan: there is no parameter " << Quoted(name);
  CheckGiven(*found, *tensor.GetDLTensorPtr());
  bound_[found - parameters_.begin()] = std::move(tensor);
  rebound_ = true;
}

void Plan::CheckGiven(int32_t tensor, const DLTensor& given) const {
  const DLTensor& expected = tensors_[tensor];
  const auto name = [&] { return GivenName(program_.tensors()[tensor].root); };
  if (given.dtype != expected.dtype)
    TVM_FFI_THROW(TypeError) << "plan: " << name() << " is " << DtypeName(given.dtype)
                             << ", expected " << DtypeName(expected.dtype);
  if (given.ndim != expected.ndim)
    TVM_FFI_THROW(ValueError) << "plan: " << name() << " has " << given.ndim
                              << " dimensions, expected " << expected.ndim;
  if (!IsContiguous(given))
    TVM_FFI_THROW(ValueError) << "plan: " << name()
                              << " must be contiguous, got strides of a view of shape "
                              << ShapeString(TensorView(&given));
  if (given.data != nullptr || IsEmpty(given)) return;
  TVM_FFI_THROW(ValueError) << "plan: " << name() << " has no memory, got a fake or meta tensor";
}

void Plan::TakeDevice(DLDevice device) {
  if (SameDevice(device, device_)) return;
  for (int32_t i = 0; i < static_cast<int32_t>(tensors_.size()); ++i) {
    if (program_.tensors()[i].kind == Kind::kConstant && device.device_type != kDLCPU)
      TVM_FFI_THROW(ValueError) << "plan: " << program_.TensorName(i)
                                << " lies on the CPU, inputs on device " << DeviceText(device)
                                << "; make it a parameter";
  }
  sized_ = false;
  device_ = device;
  for (DLTensor& t : tensors_) t.device = device;
  storage_ = Buffer();
  device_storage_.reset();
}

void Plan::Prepare(Tensors inputs) {
  if (inputs.size() != inputs_.size())
    TVM_FFI_THROW(ValueError) << "plan: got " << inputs.size() << " inputs, expected "
                              << inputs_.size();
  const bool has_parameter = !bound_.empty() && bound_[0].has_value();
  TakeDevice(!inputs.empty() ? inputs[0]->device
             : has_parameter ? (*bound_[0]).device()
                             : DLDevice{kDLCPU, 0});
  size_t input = 0, parameter = 0;
  for (const Bringer& bringer : bringers_) {
    if (!bringer.is_parameter) {
      Take(bringer, *inputs[input++]);
      continue;
    }
    const std::optional<ffi::Tensor>& tensor = bound_[parameter++];
    // Nothing before it has changed, nor itself.
    if (sized_ && !rebound_) continue;
    if (!tensor)
      TVM_FFI_THROW(ValueError) << "plan: " << program_.TensorName(bringer.tensor)
                                << " has no tensor, expected one from bind";
    Take(bringer, *tensor->GetDLTensorPtr());
  }
  if (!sized_) Resize();
  rebound_ = false;
}

void Plan::Take(const Bringer& bringer, const DLTensor& given) {
  CheckGiven(bringer.tensor, given);
  const PlanTensor& declared = program_.tensors()[bringer.tensor];
  for (int i = 0; i < given.ndim; ++i) {
    const SizeExpression& size = declared.shape[i];
    if (bringer.binds[i]) {
      int64_t& symbol = symbols_[size.symbol()];
      if (symbol != given.shape[i]) sized_ = false;
      symbol = given.shape[i];
    } else if (Evaluate(size, bringer.tensor) != given.shape[i]) {
      RefuseShape(bringer.tensor, bringer.tensor, given);
    }
  }
  CheckDevice(bringer.tensor, given);
  Move(bringer.tensor, given);
}

void Plan::CheckDevice(int32_t tensor, const DLTensor& given) const {
  if (SameDevice(given.device, device_)) return;
  TVM_FFI_THROW(ValueError) << "plan: " << GivenName(tensor) << " is on device "
                            << DeviceText(given.device) << ", the first tensor is on "
                            << DeviceText(device_);
}

void Plan::RefuseShape(int32_t tensor, int32_t shape_of, const DLTensor& given) const {
  std::ostringstream expected;
  for (const SizeExpression& size : program_.tensors()[shape_of].shape) {
    expected << (expected.tellp() == 0 ? "" : ", ") << size.text();
    if (!size.is_number()) expected << '=' << Evaluate(size, shape_of);
  }
  TVM_FFI_THROW(ValueError) << "plan: " << GivenName(tensor) << " has shape "
                            << ShapeString(TensorView(&given)) << ", expected [" << expected.str()
                            << "]";
}

void Plan::Move(int32_t tensor, const DLTensor& given) {
  uint8_t* data = DataOf(given);
  if (data == tensors_[tensor].data) return;
  tensors_[tensor].data = data;
  moved_ = true;
}

void Plan::TakeOutputs(Tensors outputs) {
  if (outputs.size() != made_.size())
    TVM_FFI_THROW(ValueError) << "plan: got " << outputs.size() << " outputs, expected "
                              << made_.size();
  for (size_t i = 0; i < outputs.size(); ++i) {
    const DLTensor &given = *outputs[i], &expected = tensors_[made_[i].tensor];
    const int32_t root = program_.tensors()[made_[i].tensor].root;
    CheckGiven(made_[i].tensor, given);
    if (!std::equal(expected.shape, expected.shape + expected.ndim, given.shape))
      RefuseShape(root, made_[i].tensor, given);
    CheckDevice(root, given);
    Move(root, given);
  }
}

/// What a call writes may be nothing else that comes from outside; calls themselves check the rest.
void Plan::CheckOverlaps() const {
  std::vector<int32_t> outside = inputs_;
  outside.insert(outside.end(), parameters_.begin(), parameters_.end());
  const size_t brought = outside.size();
  for (const PlanOutput& output : made_) {
    outside.push_back(program_.tensors()[output.tensor].root);
  }
  InterruptPoller poller;
  for (size_t i = 0; i < outside.size(); ++i) {
    poller.Poll();
    const PlanTensor& written = program_.tensors()[outside[i]];
    if (i < brought && !written.written && !written.may_be_written) continue;
    const auto* begin = static_cast<const uint8_t*>(tensors_[outside[i]].data);
    const uint8_t* end = begin + BytesOf(outside[i]);
    for (size_t j = 0; j < outside.size(); ++j) {
      const auto* other = static_cast<const uint8_t*>(tensors_[outside[j]].data);
      const uint8_t* other_end = other + BytesOf(outside[j]);
      if (i == j || begin == end || other == other_end || end <= other || other_end <= begin)
        continue;
      TVM_FFI_THROW(ValueError) << "plan: " << GivenName(outside[i]) << " overlaps "
                                << GivenName(outside[j])
                                << " in memory, expected memory of its own";
    }
  }
}

std::vector<ffi::Shape> Plan::OutputShapes(Tensors inputs) {
  Prepare(inputs);
  std::vector<ffi::Shape> shapes;
  for (const PlanOutput& output : program_.outputs()) {
    const DLTensor& t = tensors_[output.tensor];
    shapes.emplace_back(t.shape, t.shape + t.ndim);
  }
  return shapes;
}

void Plan::Run(Tensors inputs, Tensors outputs) {
  Prepare(inputs);
  TakeOutputs(outputs);
  if (moved_) {
    CheckOverlaps();
    MoveViews();
    moved_ = false;
  }
  Execute();
}

}  // namespace mlf
