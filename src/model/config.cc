// What a model is. Counterpart: config.h.
#include "model/config.h"

#include <tvm/ffi/tvm_ffi.h>

#include <cmath>

#include "base/quote.h"

namespace mlf {
namespace {

// Bounds far beyond any model, so that products of two stay below 2^63 and a lying file is refused
// before it allocates.
constexpr int64_t kMaxDim = int64_t{1} << 24, kMaxLayers = 4096, kMaxContext = int64_t{1} << 30;

class Keys {
 public:
  explicit Keys(const Gguf& file) : file_(file) {
    const auto name = file.String("general.architecture");
    if (!name)
      TVM_FFI_THROW(ValueError) << file.path() << ": metadata key general.architecture is missing";
    prefix_ = std::string(*name) + ".";
  }

  std::string architecture() const { return prefix_.substr(0, prefix_.size() - 1); }

  int64_t Count(const std::string& key, int64_t max) const {
    return Checked(key, file_.RequireInt(prefix_ + key), max);
  }
  int64_t Count(const std::string& key, int64_t max, int64_t fallback) const {
    return Checked(key, file_.Int(prefix_ + key).value_or(fallback), max);
  }
  double Positive(const std::string& key, double fallback) const {
    const double value = file_.Float(prefix_ + key).value_or(fallback);
    if (!(std::isfinite(value) && value > 0)) {
      TVM_FFI_THROW(ValueError) << file_.path() << ": " << prefix_ << key << " is " << value
                                << ", expected a number > 0";
    }
    return value;
  }

  /// A feature that changes the results and is not computed here must not be passed over in
  /// silence.
  void Refuse(const std::string& key, const char* feature) const {
    const GgufValue* value = file_.Find(prefix_ + key);
    if (value == nullptr) return;
    if (!std::holds_alternative<GgufArray>(value->value) &&
        file_.Float(prefix_ + key).value_or(0) == 0)
      return;
    TVM_FFI_THROW(NotImplementedError) << file_.path() << ": " << feature << " (" << prefix_ << key
                                       << ") is not supported by this version";
  }

  int64_t Number(const std::string& key, int64_t fallback) const {
    return file_.Int(prefix_ + key).value_or(fallback);
  }

  std::string Scaling() const {
    return std::string(file_.String(prefix_ + "rope.scaling.type").value_or("none"));
  }

  void CheckUniform(const std::string& key) const {
    const GgufValue* value = file_.Find(prefix_ + key);
    if (value != nullptr && std::holds_alternative<GgufArray>(value->value)) {
      TVM_FFI_THROW(NotImplementedError)
          << file_.path() << ": " << prefix_ << key
          << " differs per layer, which is not supported by this version";
    }
  }

 private:
  int64_t Checked(const std::string& key, int64_t value, int64_t max) const {
    if (value < 1 || value > max) {
      TVM_FFI_THROW(ValueError) << file_.path() << ": " << prefix_ << key << " is " << value
                                << ", expected 1 to " << max;
    }
    return value;
  }

  const Gguf& file_;
  std::string prefix_;
};

void ReadRope(const Keys& keys, const std::string& path, ModelConfig& c) {
  c.rope_base = keys.Positive("rope.freq_base", 10000);
  c.rope_dims = keys.Count("rope.dimension_count", kMaxDim, c.head_dim);
  if (c.rope_dims % 2 != 0 || c.rope_dims > c.head_dim) {
    TVM_FFI_THROW(ValueError) << path << ": rope.dimension_count is " << c.rope_dims
                              << ", expected an even number up to the head size " << c.head_dim;
  }
  const std::string scaling = keys.Scaling();
  if (scaling == "linear") {
    c.rope_freq_scale = 1 / keys.Positive("rope.scaling.factor", 1);
  } else if (scaling != "none") {
    TVM_FFI_THROW(NotImplementedError)
        << path << ": rope scaling \"" << scaling << "\" is not supported, expected none or linear";
  }
}

}  // namespace

ModelConfig ReadConfig(const Gguf& file, int64_t n_vocab) {
  const Keys keys(file);
  for (const char* key :
       {"attention.head_count", "attention.head_count_kv", "feed_forward_length"}) {
    keys.CheckUniform(key);
  }
  keys.Refuse("expert_count", "a mixture of experts");
  keys.Refuse("attention.sliding_window", "a sliding attention window");
  ModelConfig c;
  c.architecture = keys.architecture();
  c.name = std::string(file.String("general.name").value_or(""));
  if (!IsUtf8(c.name)) c.name = Quoted(c.name);
  c.n_layers = keys.Count("block_count", kMaxLayers);
  c.n_embd = keys.Count("embedding_length", kMaxDim);
  c.n_ff = keys.Count("feed_forward_length", kMaxDim);
  c.n_ctx_train = keys.Count("context_length", kMaxContext);
  c.n_heads = keys.Count("attention.head_count", kMaxDim);
  c.n_kv_heads = keys.Count("attention.head_count_kv", kMaxDim, c.n_heads);
  c.norm_eps = keys.Positive("attention.layer_norm_rms_epsilon", 1e-5);
  c.head_dim =
      keys.Count("attention.key_length", kMaxDim, std::max<int64_t>(1, c.n_embd / c.n_heads));
  c.n_vocab = n_vocab;
  if (c.n_heads % c.n_kv_heads != 0) {
    TVM_FFI_THROW(ValueError) << file.path() << ": " << c.n_heads << " heads are not a multiple of "
                              << c.n_kv_heads << " key/value heads";
  }
  if (keys.Count("attention.value_length", kMaxDim, c.head_dim) != c.head_dim) {
    TVM_FFI_THROW(NotImplementedError)
        << file.path() << ": value heads of another size than key heads are not supported";
  }
  ReadRope(keys, file.path(), c);
  c.pooling_type = keys.Number("pooling_type", 0);
  return c;
}

}  // namespace mlf
