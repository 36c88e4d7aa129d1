// The vocabulary of a GGUF file. Counterpart: load_vocab.h.
#include "model/load_vocab.h"

#include <tvm/ffi/tvm_ffi.h>

namespace mlf {

std::shared_ptr<const Vocab> LoadVocab(const Gguf& file) {
  const auto key = [](const char* name) { return std::string("tokenizer.ggml.") + name; };
  const auto text = [&](const std::string& name) {
    return std::string(file.String(name).value_or(""));
  };
  VocabSpec spec;
  spec.model = text(key("model"));
  if (spec.model.empty())
    TVM_FFI_THROW(ValueError) << file.path() << ": metadata key tokenizer.ggml.model is missing";
  spec.pre = text(key("pre"));
  const auto* tokens = file.Strings(key("tokens"));
  if (tokens == nullptr)
    TVM_FFI_THROW(ValueError) << file.path() << ": metadata key tokenizer.ggml.tokens is missing";
  spec.tokens.assign(tokens->begin(), tokens->end());
  if (const auto* merges = file.Strings(key("merges")))
    spec.merges.assign(merges->begin(), merges->end());
  if (const auto scores = file.Floats(key("scores")))
    spec.scores.assign(scores->begin(), scores->end());
  if (const auto types = file.Ints(key("token_type")))
    spec.types.assign(types->begin(), types->end());
  spec.bos_id = file.Int(key("bos_token_id"));
  spec.eos_id = file.Int(key("eos_token_id"));
  spec.eot_id = file.Int(key("eot_token_id"));
  spec.eom_id = file.Int(key("eom_token_id"));
  spec.unk_id = file.Int(key("unknown_token_id"));
  spec.pad_id = file.Int(key("padding_token_id"));
  spec.add_bos = file.Bool(key("add_bos_token"));
  spec.add_eos = file.Bool(key("add_eos_token"));
  spec.add_space_prefix = file.Bool(key("add_space_prefix"));
  spec.chat_template = text("tokenizer.chat_template");
  return Vocab::Create(std::move(spec));
}

}  // namespace mlf
