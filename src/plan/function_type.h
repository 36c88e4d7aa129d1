// What a plan may call, and with which arguments. Counterpart: function_type.cc.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/signature.h"

namespace mlf {

/// A parameter of a registered function, as the registry's type schema says.
struct ParameterType {
  enum class Kind : uint8_t { kTensor, kInt, kFloat, kBool, kString, kAny, kOther };
  Kind kind;
  bool optional;
  std::string name{};  // of the type, for messages
};

/// Which registered functions a plan may call besides ops: those named, or all.
struct Permission {
  bool all = false;
  std::set<std::string, std::less<>> names{};

  static Permission All() { return {.all = true}; }
};

/// A registered function.
struct PlanFunction {
  ffi::Function function;
  bool is_op = false;
  std::vector<TensorSpec> tensors{};  // of an op: inputs, then outputs
  /// Nothing where the registry does not say it: a function of Python.
  std::optional<std::vector<ParameterType>> parameters{};
};

/// ValueError where no op has this name, nor an allowed function.
PlanFunction FindPlanFunction(const std::string& name, const Permission& permission);

}  // namespace mlf
