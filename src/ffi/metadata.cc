// my_llm_ffi.Gguf: what a file says of itself and of its tensors. Counterpart: metadata.h.
#include "ffi/metadata.h"

#include <cstring>

#include "base/quote.h"
#include "ffi/objects.h"
#include "kernels/linear.h"

namespace mlf {
namespace {

ffi::Any ToAny(const GgufValue& value);

ffi::Any ToAny(const GgufArray& array) {
  return std::visit(
      [](const auto& items) -> ffi::Any {
        ffi::Array<ffi::Any> out;
        out.reserve(static_cast<int64_t>(items.size()));
        for (const auto& item : items) {
          if constexpr (std::is_same_v<std::decay_t<decltype(item)>, GgufArray>) {
            out.push_back(ToAny(item));
          } else {
            out.push_back(ToAny(GgufValue{item}));
          }
        }
        return out;
      },
      array.items);
}

ffi::Any ToAny(const GgufValue& value) {
  return std::visit(
      [](const auto& v) -> ffi::Any {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string_view>) {
          return ffi::Bytes(v.data(), v.size());  // files may hold anything; Python decodes
        } else if constexpr (std::is_same_v<T, GgufArray>) {
          return ToAny(v);
        } else if constexpr (std::is_same_v<T, uint64_t>) {
          if (v > INT64_MAX) return static_cast<double>(v);  // the ABI's integers are signed
          return static_cast<int64_t>(v);
        } else {
          return v;
        }
      },
      value.value);
}

using TensorInfo = ffi::Map<ffi::String, ffi::Any>;

/// In the file's order.
ffi::Array<TensorInfo> Tensors(const GgufRef& self) {
  ffi::Array<TensorInfo> infos;
  for (const GgufTensor& tensor : self->file->tensors()) {
    infos.push_back({{"name", ffi::Bytes(tensor.name)},
                     {"format", ffi::String(InfoOf(tensor.format).name)},
                     {"shape", ffi::Shape(tensor.shape)},
                     {"bytes", tensor.bytes},
                     {"activation_planes", ActivationPlanes(tensor.format)}});
  }
  return infos;
}

/// The bytes of a tensor [rows, row_bytes], as they are in the file: a copy, because callers may
/// write.
ffi::Tensor TensorBytes(const GgufRef& self, const ffi::Bytes& name) {
  const std::string_view wanted(name.data(), name.size());
  const GgufTensor* tensor = self->file->FindTensor(wanted);
  if (tensor == nullptr) TVM_FFI_THROW(KeyError) << Quoted(wanted);
  if (tensor->data == nullptr)
    TVM_FFI_THROW(ValueError) << "tensor " << Quoted(wanted)
                              << " was not read: the file was opened without tensors";
  const int64_t cols = tensor->shape.empty() ? 1 : tensor->shape.back(),
                row_bytes = RowBytes(tensor->format, cols);
  const int64_t rows = row_bytes == 0 ? 0 : tensor->bytes / row_bytes;
  static const ffi::Function empty = ffi::Function::GetGlobalRequired("my_llm_ffi.empty");
  const auto copy =
      empty(ffi::Shape({rows, row_bytes}), kU8, DLDevice{kDLCPU, 0}).cast<ffi::Tensor>();
  if (tensor->bytes > 0) std::memcpy(copy.data_ptr(), tensor->data, tensor->bytes);
  return copy;
}

TVM_FFI_STATIC_INIT_BLOCK() {
  MethodDef<GgufObj>()
      .def_static(
          "open",
          [](const PathArgument& path) {
            return GgufRef(ffi::make_object<GgufObj>(Gguf::Open(ToPath(path), {.tensors = false})));
          },
          "(path): Opens a GGUF file, with or without tensors; of split files any part.")
      .def_static(
          "open_tensors",
          [](const PathArgument& path) {
            return GgufRef(ffi::make_object<GgufObj>(Gguf::Open(ToPath(path))));
          },
          "(path): As open, for those who want the tensors too.")
      .def("tensor", TensorBytes,
           "(name): Bytes of a tensor as in the file, a copy: uint8 [rows, row_bytes]. KeyError "
           "when there is none.")
      .def(
          "file_bytes", [](const GgufRef& self) { return self->file->file_bytes(); },
          "(): Size of the file, of all its parts where it is split.")
      .def(
          "n_tensors",
          [](const GgufRef& self) { return static_cast<int64_t>(self->file->tensors().size()); },
          "(): Number of tensors.")
      .def("tensors", Tensors,
           "(): Of each tensor name (bytes), format, shape (slowest first), bytes, and "
           "activation_planes: as how many bytes a matmul takes an activation, 0 for float32.")
      .def(
          "metadata_keys", [](const GgufRef& self) { return MetadataKeys(*self->file); },
          "(): Names of the metadata, in the file's order.")
      .def(
          "metadata",
          [](const GgufRef& self, const ffi::Bytes& key) {
            return MetadataValue(*self->file, key);
          },
          "(key): The value of a metadata key; strings as bytes. KeyError when there is none.");
}

}  // namespace

ffi::Array<ffi::Bytes> MetadataKeys(const Gguf& file) {
  ffi::Array<ffi::Bytes> keys;
  for (const auto& [key, value] : file.metadata()) {
    keys.push_back(ffi::Bytes(key.data(), key.size()));
  }
  return keys;
}

ffi::Any MetadataValue(const Gguf& file, const ffi::Bytes& key) {
  const GgufValue* value = file.Find(std::string_view(key.data(), key.size()));
  if (value == nullptr) TVM_FFI_THROW(KeyError) << std::string(key.data(), key.size());
  return ToAny(*value);
}

}  // namespace mlf
