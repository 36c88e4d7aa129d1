// A program made ready: functions found, arguments laid out, memory planned. Counterparts: plan.cc
// (what it is given), plan_sizes.cc (sizes and places), plan_steps.cc (arguments and calls).
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/array.h"
#include "base/buffer.h"
#include "plan/buffer_layout.h"
#include "plan/program.h"

namespace mlf {

/// Used by one thread at a time; the caller sees to that. A run checks what crosses the border
/// (dtype, sizes, strides, device, overlaps) before the first call, finds sizes and places of
/// everything else when they have changed since the last one, and calls. Arguments point at tensors
/// of the plan, which alone are changed where memory moves.
class Plan {
 public:
  using Tensors = std::span<const DLTensor* const>;

  explicit Plan(Program program);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  const Program& program() const { return program_; }
  /// Inputs and parameters, as tensors of the program.
  const std::vector<int32_t>& inputs() const { return inputs_; }
  const std::vector<int32_t>& parameters() const { return parameters_; }
  /// Outputs that are not an input: those that Run writes to memory that it is given.
  const std::vector<PlanOutput>& made() const { return made_; }

  /// Shares the tensor from the next run on. ValueError, TypeError: name, dtype or rank is wrong.
  void Bind(std::string_view name, ffi::Tensor tensor);

  /// Sizes of all outputs for these inputs.
  std::vector<ffi::Shape> OutputShapes(Tensors inputs);

  /// Inputs in their order, then memory for each of made().
  void Run(Tensors inputs, Tensors outputs);

  /// Of the memory that buffers share, as of the last run.
  int64_t storage_bytes() const { return layout_bytes_ < 0 ? 0 : layout_bytes_; }

 private:
  struct Step {
    ffi::Function function;
    size_t first;  // of its arguments
    int32_t count;
    int32_t objects;  // among the arguments
    size_t first_object;
  };
  /// An input or parameter, in the order of the program.
  struct Bringer {
    int32_t tensor;
    bool is_parameter;
    std::vector<bool> binds;  // whether a size is the first to say what its name is
  };

  // plan.cc
  void ListBorder();
  void Prepare(Tensors inputs);
  void TakeDevice(DLDevice device);
  void Take(const Bringer& bringer, const DLTensor& given);
  void TakeOutputs(Tensors outputs);
  void CheckGiven(int32_t tensor, const DLTensor& given) const;
  void CheckDevice(int32_t tensor, const DLTensor& given) const;
  [[noreturn]] void RefuseShape(int32_t tensor, int32_t shape_of, const DLTensor& given) const;
  void Move(int32_t tensor, const DLTensor& given);
  void CheckOverlaps() const;
  std::string GivenName(int32_t tensor) const;

  // plan_sizes.cc
  void LayOutTensors();
  void Resize();
  void SizeTensor(int32_t index);
  void CheckView(int32_t index) const;
  void CheckOutputs() const;
  void PlaceStorage();
  void Allocate();
  void MoveViews();
  int64_t BytesOf(int32_t tensor) const;
  int64_t Evaluate(const SizeExpression& size, int32_t tensor) const;

  // plan_steps.cc
  void LayOutSteps();
  void LayOutArgument(const PlanArgument& argument, bool is_op);
  void ShowObjects(const Step& step);
  void FindLives();
  void CopyExposedConstants();
  void Execute();
  void Call(size_t step);

  Program program_;
  std::vector<int32_t> inputs_{}, parameters_{};
  std::vector<PlanOutput> made_{};
  std::vector<Bringer> bringers_{};
  std::vector<std::optional<ffi::Tensor>> bound_{};  // by parameter

  // The tensors of the program, by index, and all their sizes and strides: in few cache lines, as
  // weights go through the caches between two runs of a step.
  std::vector<DLTensor> tensors_{};
  std::vector<int64_t> sizes_{};
  struct View {
    int32_t tensor, source;
  };
  std::vector<View> views_{};
  /// For functions that are no op, and may be of Python, which take no less than objects.
  struct TensorObject {
    int32_t tensor;
    ffi::Tensor object;
  };
  std::vector<TensorObject> objects_{};
  std::vector<int64_t> numel_{}, offsets_{};
  std::vector<int64_t> symbols_{};  // sizes by name
  DLDevice device_{kDLCPU, 0};

  std::vector<Step> steps_{};
  std::vector<TVMFFIAny> arguments_{};
  std::vector<ffi::Any> texts_{};

  std::vector<BufferLife> lives_{};  // in the order of their first step ...
  std::vector<int32_t> life_of_{};   // ... and whose they are
  int64_t layout_bytes_ = 0;
  Buffer storage_{};                             // on the CPU
  std::optional<ffi::Tensor> device_storage_{};  // elsewhere
  std::vector<Buffer> copies_{};                 // of constants

  bool sized_ = false;    // sizes and places fit the symbols
  bool rebound_ = false;  // a parameter has another tensor than at the last run
  bool moved_ = false;    // some memory is elsewhere than at the last run
};

}  // namespace mlf
