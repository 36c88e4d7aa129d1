// my_llm_ffi.Model across the border.
#include "ffi/metadata.h"
#include "ffi/objects.h"
#include "runtime/embedding.h"

namespace mlf {
namespace {

ModelRef Load(const PathArgument& path, int64_t n_threads, bool repack, bool mmap, bool mlock,
              const ffi::Optional<ffi::Function>& progress) {
  if (n_threads < 0 || n_threads > 65535) {
    TVM_FFI_THROW(ValueError) << "n_threads is " << n_threads << ", expected a count, or 0 for all";
  }
  ModelOptions options{.n_threads = static_cast<int>(n_threads),
                       .repack = repack,
                       .mmap = mmap,
                       .mlock = mlock,
                       .progress = {}};
  if (progress.has_value()) {
    // Python's None means go on, as for a callback without a return statement.
    options.progress = [fn = *progress](double fraction) {
      const ffi::Any answer = fn(fraction);
      return answer == nullptr || answer.cast<bool>();
    };
  }
  return ModelRef(ffi::make_object<ModelObj>(Model::Load(ToPath(path), options)));
}

ffi::Map<ffi::String, ffi::Any> Config(const ModelRef& self) {
  const ModelConfig& c = self->model->config();
  return {{"architecture", ffi::String(c.architecture)},
          {"name", ffi::String(c.name)},
          {"n_layers", c.n_layers},
          {"n_embd", c.n_embd},
          {"n_heads", c.n_heads},
          {"n_kv_heads", c.n_kv_heads},
          {"head_dim", c.head_dim},
          {"n_ff", c.n_ff},
          {"n_vocab", c.n_vocab},
          {"n_ctx_train", c.n_ctx_train},
          {"norm_eps", c.norm_eps},
          {"rope_base", c.rope_base},
          {"rope_freq_scale", c.rope_freq_scale},
          {"rope_dims", c.rope_dims}};
}

ContextRef NewContext(const ModelRef& self, int64_t n_ctx, int64_t n_seq_max, int64_t n_batch,
                      const ffi::String& kv_dtype, double rope_freq_base, double rope_freq_scale,
                      bool embeddings, const ffi::Array<LoraAdapterRef>& lora,
                      const ffi::Array<double>& lora_scales) {
  if (lora.size() != lora_scales.size()) {
    TVM_FFI_THROW(ValueError) << "context: " << lora.size() << " adapters with "
                              << lora_scales.size() << " scales, expected one each";
  }
  ContextOptions options{.n_ctx = n_ctx,
                         .n_seq_max = n_seq_max,
                         .n_batch = n_batch,
                         .kv_dtype = KvDtype(kv_dtype),
                         .rope_freq_base = rope_freq_base,
                         .rope_freq_scale = rope_freq_scale,
                         .embeddings = embeddings};
  for (size_t i = 0; i < lora.size(); ++i) {
    options.lora.push_back({lora[i]->adapter, lora_scales[i]});
  }
  return ContextRef(ffi::make_object<ContextObj>(std::make_shared<Context>(self->model, options)));
}

ffi::Tensor EmbedTexts(const ModelRef& self, const ffi::Array<ffi::Array<int64_t>>& texts,
                       const ffi::Optional<ffi::String>& pooling, bool normalize) {
  EmbedOptions options{.normalize = normalize};
  if (pooling.has_value()) {
    const ffi::String name = *pooling;
    options.pooling = PoolingOf(std::string_view(name.data(), name.size()));
  }
  std::vector<std::vector<int64_t>> ids;
  for (const ffi::Array<int64_t>& text : texts) ids.push_back(ToInts(text));
  return Embed(self->model, ids, options);
}

void RegisterLoraAdapter() {
  MethodDef<LoraAdapterObj>()
      .def_static(
          "load",
          [](const ModelRef& model, const PathArgument& path) {
            return LoraAdapterRef(
                ffi::make_object<LoraAdapterObj>(LoraAdapter::Load(ToPath(path), *model->model)));
          },
          "(model, path): Loads an adapter's GGUF file for a model.")
      .def(
          "alpha", [](const LoraAdapterRef& self) { return self->adapter->alpha(); },
          "(): Its own scale, that of the file.")
      .def(
          "n_matrices", [](const LoraAdapterRef& self) { return self->adapter->n_pairs(); },
          "(): Number of matrices that it changes.")
      .def(
          "bytes", [](const LoraAdapterRef& self) { return self->adapter->bytes(); },
          "(): Memory that it takes.");
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterLoraAdapter();
  MethodDef<ModelObj>()
      .def_static(
          "load", Load,
          "(path, n_threads = 0, repack = True, mmap = True, mlock = False, progress: "
          "Callable[[float], bool] = None): Opens a GGUF file. n_threads: 0 for all; repack: "
          "lays weights out for this CPU; progress(fraction): called while it loads, false "
          "cancels.")
      .def(
          "close", [](const ModelRef& self) { self->model->Close(); },
          "(): Frees the weights once no pass uses them; what needs them throws ValueError from "
          "here on. "
          "Configuration and vocabulary stay.")
      .def("config", Config, "() -> ModelConfig: Sizes and constants of the model.")
      .def(
          "n_threads", [](const ModelRef& self) { return self->model->n_threads(); },
          "(): Threads that it computes on.")
      .def(
          "file_bytes", [](const ModelRef& self) { return self->model->file()->file_bytes(); },
          "(): Size of the file, of all its parts where it is split.")
      .def(
          "metadata_keys", [](const ModelRef& self) { return MetadataKeys(*self->model->file()); },
          "(): Names of the file's metadata, in its order.")
      .def(
          "metadata",
          [](const ModelRef& self, const ffi::Bytes& key) {
            return MetadataValue(*self->model->file(), key);
          },
          "(key): The value of a metadata key; strings as bytes. KeyError when there is none.")
      .def(
          "vocab",
          [](const ModelRef& self) {
            return VocabRef(ffi::make_object<VocabObj>(self->model->vocab()));
          },
          "(): The vocabulary.")
      .def("context", NewContext,
           "(n_ctx = 0, n_seq_max = 1, n_batch = 512, kv_dtype = 'f16', rope_freq_base = 0.0, "
           "rope_freq_scale = 0.0, embeddings = False, lora = (), lora_scales = ()): Sequences "
           "in a KV cache over the model. n_ctx: 0 for the training length; kv_dtype: f16 or "
           "f32; rope_freq_base, rope_freq_scale: 0 for the model's; lora: adapters, and the "
           "scale of each.")
      .def("embed", EmbedTexts,
           "(texts, pooling = None, normalize = True): Vectors of texts, float32 [texts, "
           "n_embd]. texts: token ids of each; pooling: mean, cls, last, or None for the "
           "model's.");
}

}  // namespace

DLDataType KvDtype(const ffi::String& name) {
  if (name == "f16") return kF16;
  if (name == "f32") return kF32;
  TVM_FFI_THROW(ValueError) << "kv_dtype is \"" << std::string(name)
                            << "\", expected \"f16\" or \"f32\"";
}

}  // namespace mlf
