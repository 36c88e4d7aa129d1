// Weight formats at run time. Counterpart: formats.h.
#include "quant/formats.h"

#include <tvm/ffi/tvm_ffi.h>

#include "base/quote.h"
#include "base/registry.h"

namespace mlf {
namespace {

namespace ffi = tvm::ffi;

template <typename F>
constexpr FormatInfo MakeInfo(const char* name) {
  return {static_cast<Format>(F::kGgufType), name, F::kWeights, F::kBytes, F::Dequantize};
}

constexpr FormatInfo kFormats[] = {
#define MLF_FORMAT_INFO(name) MakeInfo<quant::name>(#name),
    MLF_FORMATS(MLF_FORMAT_INFO)
#undef MLF_FORMAT_INFO
};

/// [weights, bytes] of one block: what shapes of outputs are computed from outside of C++.
ffi::Array<int64_t> FormatBlock(const ffi::String& name) {
  const FormatInfo* info = FindFormat(std::string_view(name.data(), name.size()));
  if (info == nullptr) {
    TVM_FFI_THROW(ValueError) << "format is " << Quoted({name.data(), name.size()})
                              << ", expected one of " << FormatNames();
  }
  return {info->block, info->block_bytes};
}

TVM_FFI_STATIC_INIT_BLOCK() {
  FunctionDef().def("my_llm_ffi.format_block", FormatBlock,
                    {{"doc", "(format): Weights and bytes of one block of a weight format."}});
}

}  // namespace

const FormatInfo* FindFormat(int64_t gguf_type) {
  for (const FormatInfo& info : kFormats) {
    if (static_cast<int64_t>(info.format) == gguf_type) return &info;
  }
  return nullptr;
}

const FormatInfo* FindFormat(std::string_view name) {
  for (const FormatInfo& info : kFormats) {
    if (name == info.name) return &info;
  }
  return nullptr;
}

const FormatInfo& InfoOf(Format format) { return *FindFormat(static_cast<int64_t>(format)); }

std::string FormatNames() {
  std::string names;
  for (const FormatInfo& info : kFormats)
    names += (names.empty() ? "" : ", ") + std::string(info.name);
  return names;
}

}  // namespace mlf
