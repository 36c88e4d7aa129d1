// The objects that cross the border: thin holders of the library's own classes.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/registry.h"
#include "io/gguf.h"
#include "runtime/batch.h"
#include "runtime/context.h"
#include "runtime/generation.h"
#include "runtime/sampler.h"
#include "text/stream_decoder.h"

namespace mlf {

/// Holds a T until it is closed. Copies of the pointer (a context's of its model) keep what they
/// use alive.
template <typename T>
class Held {
 public:
  Held(std::shared_ptr<T> value, const char* object) : value_(std::move(value)), object_(object) {}

  /// ValueError after Close.
  std::shared_ptr<T> Get() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (value_ == nullptr) TVM_FFI_THROW(ValueError) << "this " << object_ << " is closed";
    return value_;
  }
  void Close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    value_.reset();
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<T> value_;
  const char* object_;
};

class GgufObj : public ffi::Object {
 public:
  explicit GgufObj(std::shared_ptr<const Gguf> file) : file(std::move(file)) {}
  std::shared_ptr<const Gguf> file;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Gguf", GgufObj, ffi::Object);
};

class ModelObj : public ffi::Object {
 public:
  explicit ModelObj(std::shared_ptr<const Model> model) : model(std::move(model)) {}
  std::shared_ptr<const Model> model;
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Model", ModelObj, ffi::Object);
};

class LoraAdapterObj : public ffi::Object {
 public:
  explicit LoraAdapterObj(std::shared_ptr<const LoraAdapter> adapter)
      : adapter(std::move(adapter)) {}
  std::shared_ptr<const LoraAdapter> adapter;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.LoraAdapter", LoraAdapterObj, ffi::Object);
};

class VocabObj : public ffi::Object {
 public:
  explicit VocabObj(std::shared_ptr<const Vocab> vocab) : vocab(std::move(vocab)) {}
  std::shared_ptr<const Vocab> vocab;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Vocab", VocabObj, ffi::Object);
};

class StreamDecoderObj : public ffi::Object {
 public:
  StreamDecoderObj(std::shared_ptr<const Vocab> vocab, bool skip_special, bool at_start)
      : vocab(vocab), decoder(std::move(vocab), skip_special, at_start) {}
  std::shared_ptr<const Vocab> vocab;
  StreamDecoder decoder;
  std::atomic_flag in_use = ATOMIC_FLAG_INIT;
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.StreamDecoder", StreamDecoderObj, ffi::Object);
};

class BatchObj : public ffi::Object {
 public:
  Batch batch;
  std::atomic_flag in_use = ATOMIC_FLAG_INIT;
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Batch", BatchObj, ffi::Object);
};

class ContextObj : public ffi::Object {
 public:
  explicit ContextObj(std::shared_ptr<Context> context) : context(std::move(context), "Context") {}
  Held<Context> context;
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Context", ContextObj, ffi::Object);
};

class SamplerObj : public ffi::Object {
 public:
  std::shared_ptr<Sampler> sampler = std::make_shared<Sampler>();
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Sampler", SamplerObj, ffi::Object);
};

class GenerationObj : public ffi::Object {
 public:
  GenerationObj(ffi::ObjectPtr<ContextObj> context, std::unique_ptr<Generation> generation)
      : context(std::move(context)), generation(std::move(generation)) {}
  ffi::ObjectPtr<ContextObj> context;
  std::unique_ptr<Generation> generation;
  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.Generation", GenerationObj, ffi::Object);
};

/// Signature of a method is written with references to these.
#define MLF_OBJECT_REF(Ref, Obj)                                                    \
  class Ref : public ffi::ObjectRef {                                               \
   public:                                                                          \
    explicit Ref(ffi::ObjectPtr<Obj> object) : ffi::ObjectRef(std::move(object)) {} \
    TVM_FFI_DEFINE_OBJECT_REF_METHODS_NOTNULLABLE(Ref, ffi::ObjectRef, Obj);        \
  }

MLF_OBJECT_REF(GgufRef, GgufObj);
MLF_OBJECT_REF(ModelRef, ModelObj);
MLF_OBJECT_REF(LoraAdapterRef, LoraAdapterObj);
MLF_OBJECT_REF(VocabRef, VocabObj);
MLF_OBJECT_REF(StreamDecoderRef, StreamDecoderObj);
MLF_OBJECT_REF(BatchRef, BatchObj);
MLF_OBJECT_REF(ContextRef, ContextObj);
MLF_OBJECT_REF(SamplerRef, SamplerObj);
MLF_OBJECT_REF(GenerationRef, GenerationObj);

/// A path as callers have it: text, or the bytes of a name that is not UTF-8.
using PathArgument = ffi::Variant<ffi::String, ffi::Bytes>;

inline std::string ToPath(const PathArgument& path) {
  if (const auto text = path.as<ffi::String>()) return {text->data(), text->size()};
  const ffi::Bytes bytes = path.get<ffi::Bytes>();
  return {bytes.data(), bytes.size()};
}

/// "f16" or "f32"; ValueError for another.
DLDataType KvDtype(const ffi::String& name);

inline std::vector<int64_t> ToInts(const ffi::Array<int64_t>& values) {
  return {values.begin(), values.end()};
}

template <typename T>
std::optional<T> ToStd(const ffi::Optional<T>& value) {
  if (!value.has_value()) return std::nullopt;
  return *value;
}

}  // namespace mlf
