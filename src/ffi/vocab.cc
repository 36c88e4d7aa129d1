// my_llm_ffi.Vocab and my_llm_ffi.StreamDecoder across the border.
#include <algorithm>

#include "ffi/objects.h"
#include "model/load_vocab.h"

namespace mlf {
namespace {

std::string_view View(const ffi::Bytes& bytes) { return {bytes.data(), bytes.size()}; }
ffi::Bytes ToBytes(std::string_view text) { return ffi::Bytes(text.data(), text.size()); }

int32_t CheckedId(const Vocab& vocab, int64_t id) {
  if (id < 0 || id >= vocab.size()) {
    TVM_FFI_THROW(IndexError) << "token " << id << " is out of range, expected 0 to "
                              << vocab.size() - 1;
  }
  return static_cast<int32_t>(id);
}

std::vector<int32_t> CheckedIds(const Vocab& vocab, const ffi::Array<int64_t>& ids) {
  std::vector<int32_t> checked;
  checked.reserve(ids.size());
  for (int64_t id : ids) checked.push_back(CheckedId(vocab, id));
  return checked;
}

VocabRef FromFile(const PathArgument& path) {
  const auto file = Gguf::Open(ToPath(path), {.tensors = false});
  return VocabRef(ffi::make_object<VocabObj>(LoadVocab(*file)));
}

ffi::Shape Tokenize(const VocabRef& self, const ffi::Bytes& text, bool add_special,
                    bool parse_special) {
  const std::vector<int32_t> ids = self->vocab->Tokenize(View(text), add_special, parse_special);
  return ffi::Shape(ids.begin(), ids.end());
}

/// For prompts that hold the words of others: control tokens are read but where those spell them.
ffi::Shape TokenizeGuarded(const VocabRef& self, const ffi::Bytes& text, bool add_special,
                           const ffi::Array<int64_t>& plain_at) {
  std::vector<int64_t> offsets = ToInts(plain_at);
  std::sort(offsets.begin(), offsets.end());
  const std::vector<int32_t> ids =
      self->vocab->Tokenize(View(text), add_special, /*parse_special=*/true, offsets);
  return ffi::Shape(ids.begin(), ids.end());
}

ffi::Array<ffi::Bytes> ControlTokens(const VocabRef& self) {
  ffi::Array<ffi::Bytes> texts;
  for (int32_t id = 0; id < self->vocab->size(); ++id) {
    const TokenType type = self->vocab->Type(id);
    if (type != TokenType::kControl && type != TokenType::kUnknown) continue;
    texts.push_back(ToBytes(self->vocab->Piece(id)));
  }
  return texts;
}

ffi::Optional<int64_t> ToOptional(std::optional<int32_t> id) {
  if (!id) return std::nullopt;
  return static_cast<int64_t>(*id);
}

void RegisterTexts(MethodDef<VocabObj>& methods) {
  methods
      .def_static("from_file", FromFile,
                  "(path): The vocabulary of a GGUF file, with or without tensors.")
      .def("tokenize", Tokenize,
           "(text, add_special = True, parse_special = False): Ids of a text in UTF-8. "
           "add_special: as the model wants its prompts to begin; parse_special: control tokens "
           "that the text spells are read as such.")
      .def("tokenize_guarded", TokenizeGuarded,
           "(text, add_special, plain_at): As tokenize with parse_special, but for the byte "
           "offsets where control tokens are text.")
      .def("control_tokens", ControlTokens,
           "(): What the tokens that parse_special reads look like in a text.")
      .def(
          "detokenize",
          [](const VocabRef& self, const ffi::Array<int64_t>& ids, bool skip_special) {
            return ToBytes(self->vocab->Detokenize(CheckedIds(*self->vocab, ids), skip_special));
          },
          "(ids, skip_special = False): The text of ids; bytes, which need not be UTF-8.")
      .def(
          "piece",
          [](const VocabRef& self, int64_t id) {
            return ToBytes(self->vocab->Piece(CheckedId(*self->vocab, id)));
          },
          "(id): The bytes of one token.")
      .def(
          "decoder",
          [](const VocabRef& self, bool skip_special, bool at_start) {
            return StreamDecoderRef(
                ffi::make_object<StreamDecoderObj>(self->vocab, skip_special, at_start));
          },
          "(skip_special = False, at_start = False): Text of tokens one by one, never half a "
          "character. at_start: the first one begins a text.");
}

void RegisterTokens(MethodDef<VocabObj>& methods) {
  methods
      .def(
          "size", [](const VocabRef& self) { return static_cast<int64_t>(self->vocab->size()); },
          "(): Number of tokens.")
      .def(
          "is_eog",
          [](const VocabRef& self, int64_t id) {
            return self->vocab->IsEog(CheckedId(*self->vocab, id));
          },
          "(id): Whether a token ends an answer.")
      .def(
          "type",
          [](const VocabRef& self, int64_t id) {
            return static_cast<int64_t>(self->vocab->Type(CheckedId(*self->vocab, id)));
          },
          "(id) -> TokenType: What a token is.")
      .def(
          "bos_id", [](const VocabRef& self) { return ToOptional(self->vocab->bos_id()); },
          "(): The token that begins a text, None where there is none.")
      .def(
          "eos_id", [](const VocabRef& self) { return ToOptional(self->vocab->eos_id()); },
          "(): The token that ends a text, None where there is none.")
      .def(
          "add_bos", [](const VocabRef& self) { return self->vocab->add_bos(); },
          "(): Whether prompts begin with the token of bos_id.")
      .def(
          "model",
          [](const VocabRef& self) { return ffi::String(std::string(self->vocab->model())); },
          "(): The algorithm: \"llama\" (SPM), \"gpt2\" (BPE) ...")
      .def(
          "chat_template",
          [](const VocabRef& self) { return ToBytes(self->vocab->chat_template()); },
          "(): The file's Jinja2 template, empty where there is none.");
}

void RegisterStreamDecoder() {
  MethodDef<StreamDecoderObj>()
      .def(
          "push",
          [](const StreamDecoderRef& self, int64_t id) {
            const ExclusiveUse exclusive(self->in_use, "StreamDecoder");
            return ffi::String(self->decoder.Push(CheckedId(*self->vocab, id)));
          },
          "(id): The text that a token adds, as far as it is whole characters.")
      .def(
          "finish",
          [](const StreamDecoderRef& self) {
            const ExclusiveUse exclusive(self->in_use, "StreamDecoder");
            return ffi::String(self->decoder.Finish());
          },
          "(): What was kept back, with replacement characters for what never became whole.");
}

TVM_FFI_STATIC_INIT_BLOCK() {
  MethodDef<VocabObj> methods;
  RegisterTexts(methods);
  RegisterTokens(methods);
  RegisterStreamDecoder();
}

}  // namespace
}  // namespace mlf
