// What a plugin is: its fields, tensors and the call that it makes, read from the declaration of an
// op. Counterparts: declaration.cc, python/my_llm_ffi/tensorrt/op_plugins.py and lookup.py.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/signature.h"

namespace mlf::tensorrt {

namespace ffi = tvm::ffi;

inline constexpr const char* kVersion = "1";
inline constexpr const char* kNamespace = "my_llm_ffi";
inline constexpr int64_t kSchemaVersion = 1;
inline constexpr size_t kMaxTensors = 16;    // of a call
inline constexpr size_t kMaxArguments = 32;  // of a call

enum class FieldKind { kBool, kInt, kFloat, kText };

/// A field of a plugin: an option of its op, or whether an optional input is there.
struct FieldSpec {
  std::string name{};
  FieldKind kind = FieldKind::kBool;
  bool has_choices = false;            // those of the signature's option of that name
  std::optional<ffi::Any> fallback{};  // its value when absent; none: it must be there
};

/// An argument of the function that a plugin calls.
struct ArgumentSource {
  enum class From { kTensor, kField, kConstant };
  From from = From::kConstant;
  size_t index = 0;     // of the signature's tensor, or of the field
  ffi::Any constant{};  // None, or what is given
};

/// One kind of plugin. Lives as long as the process, and nothing changes it.
struct Declaration {
  explicit Declaration(std::string plugin) : name(std::move(plugin)), signature(name.c_str()) {}
  Declaration(const Declaration&) = delete;
  Declaration& operator=(const Declaration&) = delete;

  std::string name;     // of the plugin
  Signature signature;  // tensors in its order, inputs first
  std::vector<FieldSpec> fields{};
  std::vector<std::optional<size_t>> presence{};  // per tensor: the field that says whether it is
  std::optional<size_t> widening{};               // field that makes outputs float32
  ffi::Function function{};
  std::vector<ArgumentSource> arguments{};
};

/// The plugins that ship, from the ops of the registry. Throws when one of these is not there, or
/// says more than a plugin can.
std::vector<std::unique_ptr<const Declaration>> ShippedPlugins();

}  // namespace mlf::tensorrt
