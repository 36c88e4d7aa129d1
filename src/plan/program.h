// What a plan computes: its tensors, calls and results, each checked as it is added. Counterpart:
// program.cc.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "plan/function_type.h"
#include "plan/size_expression.h"

namespace mlf {

/// A tensor of a plan.
struct PlanTensor {
  enum class Kind : uint8_t { kInput, kConstant, kParameter, kBuffer, kView };

  Kind kind = Kind::kBuffer;
  std::string name{};  // empty for buffers and views
  DLDataType dtype{};
  std::vector<SizeExpression> shape{};
  int32_t source = -1;      // of a view: whose elements
  SizeExpression offset{};  // of a view: elements before it
  int32_t root = -1;        // whose memory it is: itself, or that of the source
  // Of roots:
  bool written = false;         // by some call
  bool may_be_written = false;  // is given to a function that is no op
  // Of constants; `owner` keeps `data` alive.
  std::shared_ptr<const void> owner{};
  const uint8_t* data = nullptr;
  int64_t bytes = 0;
};

/// An argument: nothing, a number, a bool, text, or a tensor of the plan.
struct PlanTensorIndex {
  int32_t index;
};
using PlanArgument =
    std::variant<std::monostate, PlanTensorIndex, int64_t, double, bool, std::string>;

struct PlanCall {
  std::string name{};  // the registered one
  std::shared_ptr<const PlanFunction> function{};
  std::vector<PlanArgument> arguments{};
};

struct PlanOutput {
  std::string name{};
  int32_t tensor = -1;
};

/// Everything that is added has been checked against what stands before it; messages are
/// ValueError, begin with "plan: " and name tensor or step.
class Program {
 public:
  static constexpr int kMaxDims = 16;
  static constexpr int64_t kMaxTensors = 1 << 22;

  using Sizes = std::span<const std::string>;
  struct Constant {
    std::shared_ptr<const void> owner;
    const uint8_t* data;
    int64_t bytes;
  };

  // Each gives the index of the tensor.
  int32_t AddInput(const std::string& name, DLDataType dtype, Sizes shape);
  int32_t AddConstant(const std::string& name, DLDataType dtype, Sizes shape, Constant constant);
  int32_t AddParameter(const std::string& name, DLDataType dtype, Sizes shape);
  int32_t AddBuffer(DLDataType dtype, Sizes shape);
  int32_t AddView(int32_t source, Sizes shape, const std::string& offset);

  void AddCall(const std::string& function, std::vector<PlanArgument> arguments,
               const Permission& permission);
  void AddOutput(const std::string& name, int32_t tensor);

  /// What only the whole can be checked for. It stays as it is, and may be added to.
  void CheckComplete() const;

  const std::vector<PlanTensor>& tensors() const { return tensors_; }
  const std::vector<PlanCall>& calls() const { return calls_; }
  const std::vector<PlanOutput>& outputs() const { return outputs_; }
  const std::vector<std::string>& symbols() const { return symbols_; }
  /// Shared by copies of this program and by no other: whose an index is.
  const std::shared_ptr<const char>& identity() const { return identity_; }

  /// "step 3 (my_llm_ffi.rms_norm)"
  static std::string StepName(size_t step, const std::string& function);
  /// `input "x"`, `buffer 7`
  std::string TensorName(int32_t index) const;

 private:
  int32_t Add(PlanTensor tensor, Sizes shape);
  int32_t AddNamed(PlanTensor tensor, Sizes shape);
  void CheckIndex(int32_t index) const;
  void CheckArguments(const PlanCall& call) const;
  void CheckArgument(const PlanCall& call, size_t position) const;
  void CheckUse(const TensorSpec& spec, int32_t index) const;
  void Mark(const PlanCall& call);

  std::shared_ptr<const char> identity_ = std::make_shared<const char>();
  std::vector<PlanTensor> tensors_{};
  std::vector<PlanCall> calls_{};
  std::vector<PlanOutput> outputs_{};
  std::vector<std::string> symbols_{};  // names of sizes, in the order in which they were bound
  std::set<std::string, std::less<>> names_{}, output_names_{};
  std::set<int32_t> output_roots_{};
  std::map<std::string, std::shared_ptr<const PlanFunction>, std::less<>> functions_{};
};

}  // namespace mlf
