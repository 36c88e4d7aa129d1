// Arguments and calls of a plan. Counterparts: plan.h, plan.cc, plan_sizes.cc.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/borrowed_tensor.h"
#include "base/interrupt.h"
#include "plan/plan.h"

namespace mlf {
namespace {

using Kind = PlanTensor::Kind;

/// Calls fn(step, tensor) for each tensor that is an argument.
template <typename Fn>
void ForTensors(const Program& program, Fn fn) {
  for (size_t step = 0; step < program.calls().size(); ++step) {
    for (const PlanArgument& argument : program.calls()[step].arguments) {
      if (const auto* tensor = std::get_if<PlanTensorIndex>(&argument)) {
        fn(static_cast<int32_t>(step), tensor->index);
      }
    }
  }
}

}  // namespace

void Plan::LayOutSteps() {
  for (const PlanCall& call : program_.calls()) {
    const size_t first_object = objects_.size();
    Step step{call.function->function, arguments_.size(),
              static_cast<int32_t>(call.arguments.size()), 0, first_object};
    for (const PlanArgument& argument : call.arguments) {
      LayOutArgument(argument, call.function->is_op);
    }
    step.objects = static_cast<int32_t>(objects_.size() - first_object);
    steps_.push_back(std::move(step));
  }
}

void Plan::LayOutArgument(const PlanArgument& argument, bool is_op) {
  ffi::AnyView view;
  if (const auto* tensor = std::get_if<PlanTensorIndex>(&argument)) {
    DLTensor& t = tensors_[tensor->index];
    view = &t;
    if (!is_op) {
      objects_.push_back({tensor->index, BorrowTensor(ffi::ShapeView(t.shape, t.ndim), t.dtype,
                                                      t.device, t.data)});
      view = objects_.back().object;
    }
  } else if (const auto* integer = std::get_if<int64_t>(&argument)) {
    view = *integer;
  } else if (const auto* number = std::get_if<double>(&argument)) {
    view = *number;
  } else if (const auto* flag = std::get_if<bool>(&argument)) {
    view = *flag;
  } else if (const auto* text = std::get_if<std::string>(&argument)) {
    texts_.emplace_back(ffi::String(*text));  // kept here; the view is of the string itself
    view = texts_.back();
  }
  arguments_.push_back(view.CopyToTVMFFIAny());
}

/// From which step to which each buffer inside of the plan is needed.
void Plan::FindLives() {
  const auto count = program_.tensors().size();
  std::vector<BufferLife> lives(count, {-1, -1, -1});
  ForTensors(program_, [&](int32_t step, int32_t tensor) {
    BufferLife& life = lives[program_.tensors()[tensor].root];
    if (life.first < 0) life.first = step;
    life.last = step;
  });
  for (const PlanOutput& output : made_) lives[program_.tensors()[output.tensor].root].first = -1;
  for (size_t i = 0; i < count; ++i) {
    if (program_.tensors()[i].kind == Kind::kBuffer && lives[i].first >= 0) {
      life_of_.push_back(static_cast<int32_t>(i));
    }
  }
  std::stable_sort(life_of_.begin(), life_of_.end(),
                   [&](int32_t a, int32_t b) { return lives[a].first < lives[b].first; });
  for (const int32_t i : life_of_) lives_.push_back(lives[i]);
}

/// Constants may lie in a file's read-only pages: whoever is no op, and so has not said that it
/// only reads, gets a copy.
void Plan::CopyExposedConstants() {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const PlanTensor& t = program_.tensors()[i];
    if (t.kind != Kind::kConstant || !t.may_be_written || t.bytes == 0) continue;
    copies_.push_back(Buffer::For("a constant of a plan", t.bytes));
    std::memcpy(copies_.back().data(), t.data, t.bytes);
    tensors_[i].data = copies_.back().data();
  }
}

/// Brings the objects that a step is given up to date.
void Plan::ShowObjects(const Step& step) {
  for (size_t i = step.first_object; i < step.first_object + step.objects; ++i) {
    const DLTensor& now = tensors_[objects_[i].tensor];
    auto& shown = *const_cast<DLTensor*>(objects_[i].object.GetDLTensorPtr());
    shown.data = now.data;
    shown.device = now.device;
    std::copy_n(now.shape, now.ndim, shown.shape);
    std::copy_n(now.strides, now.ndim, shown.strides);
  }
}

void Plan::Execute() {
  InterruptPoller poller;
  for (size_t step = 0; step < steps_.size(); ++step) {
    Call(step);
    poller.Poll();
  }
}

/// By the C ABI: no exception may come out of a function of another library.
void Plan::Call(size_t step) {
  const Step& s = steps_[step];
  if (s.objects > 0) [[unlikely]]
    ShowObjects(s);
  auto* function =
      const_cast<ffi::FunctionObj*>(static_cast<const ffi::FunctionObj*>(s.function.get()));
  ffi::Any result;
  const int failed = function->safe_call(function, arguments_.data() + s.first, s.count,
                                         reinterpret_cast<TVMFFIAny*>(&result));
  if (failed == 0) [[likely]]
    return;
  try {
    TVM_FFI_CHECK_SAFE_CALL(failed);
  } catch (ffi::Error& error) {
    // The message stays the op's own; where it was called stands in the traceback.
    const std::string frame = "  File \"<plan>\", line " + std::to_string(step) + ", in " +
                              program_.calls()[step].name + "\n";
    const TVMFFIByteArray text{frame.data(), frame.size()};
    error.UpdateBacktrace(&text, kTVMFFIBacktraceUpdateModeAppend);
    throw;
  }
}

}  // namespace mlf
