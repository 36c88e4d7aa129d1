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

TVM_FFI_STATIC_INIT_BLOCK() {
  MethodDef<VocabObj>()
      .def_static("from_file", FromFile, "The vocabulary of a GGUF file, with or without tensors.")
      .def("tokenize", Tokenize, "UTF-8 bytes, add_special, parse_special -> ids")
      .def("tokenize_guarded", TokenizeGuarded,
           "UTF-8 bytes, add_special, byte offsets where control tokens are text -> ids")
      .def("control_tokens", ControlTokens,
           "What the tokens that parse_special reads look like in a text")
      .def("detokenize",
           [](const VocabRef& self, const ffi::Array<int64_t>& ids, bool skip_special) {
             return ToBytes(self->vocab->Detokenize(CheckedIds(*self->vocab, ids), skip_special));
           })
      .def("piece",
           [](const VocabRef& self, int64_t id) {
             return ToBytes(self->vocab->Piece(CheckedId(*self->vocab, id)));
           })
      .def("decoder",
           [](const VocabRef& self, bool skip_special, bool at_start) {
             return StreamDecoderRef(
                 ffi::make_object<StreamDecoderObj>(self->vocab, skip_special, at_start));
           })
      .def("size", [](const VocabRef& self) { return static_cast<int64_t>(self->vocab->size()); })
      .def("is_eog", [](const VocabRef& self,
                        int64_t id) { return self->vocab->IsEog(CheckedId(*self->vocab, id)); })
      .def("type",
           [](const VocabRef& self, int64_t id) {
             return static_cast<int64_t>(self->vocab->Type(CheckedId(*self->vocab, id)));
           })
      .def("bos_id", [](const VocabRef& self) { return ToOptional(self->vocab->bos_id()); })
      .def("eos_id", [](const VocabRef& self) { return ToOptional(self->vocab->eos_id()); })
      .def("add_bos", [](const VocabRef& self) { return self->vocab->add_bos(); })
      .def("model",
           [](const VocabRef& self) { return ffi::String(std::string(self->vocab->model())); })
      .def("chat_template",
           [](const VocabRef& self) { return ToBytes(self->vocab->chat_template()); });
  MethodDef<StreamDecoderObj>()
      .def("push",
           [](const StreamDecoderRef& self, int64_t id) {
             const ExclusiveUse exclusive(self->in_use, "StreamDecoder");
             return ffi::String(self->decoder.Push(CheckedId(*self->vocab, id)));
           })
      .def("finish", [](const StreamDecoderRef& self) {
        const ExclusiveUse exclusive(self->in_use, "StreamDecoder");
        return ffi::String(self->decoder.Finish());
      });
}

}  // namespace
}  // namespace mlf
