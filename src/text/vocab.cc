// A vocabulary put together from its parts. Counterpart: vocab.h.
#include "text/vocab.h"

#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "base/interrupt.h"
#include "text/bpe.h"
#include "text/detokenizer.h"
#include "text/special_tokens.h"
#include "text/spm.h"
#include "text/vocab_rules.h"

namespace mlf {
namespace {

std::string PieceOf(const std::string& text, TokenType type, bool is_spm) {
  switch (type) {
    case TokenType::kByte:
      return std::string(1, static_cast<char>(*ParseByteToken(text)));
    case TokenType::kNormal:
    case TokenType::kUnused:
      return is_spm ? UnescapeSpaces(text) : DecodeByteAlphabet(text);
    default:
      return text;
  }
}

std::vector<std::string> PiecesOf(const VocabSpec& spec, const VocabRules& rules) {
  std::vector<std::string> pieces;
  pieces.reserve(spec.tokens.size());
  InterruptPoller poller;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    poller.PollAt(i);
    pieces.push_back(PieceOf(spec.tokens[i], rules.types[i], rules.is_spm));
  }
  return pieces;
}

SpecialTokens TokensIn(const VocabSpec& spec, const VocabRules& rules, bool with_control) {
  std::vector<SpecialTokens::Token> tokens;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const TokenType type = rules.types[i];
    const bool control = type == TokenType::kControl || type == TokenType::kUnknown;
    if (type == TokenType::kUserDefined || (control && with_control)) {
      tokens.push_back({spec.tokens[i], static_cast<int32_t>(i)});
    }
  }
  return SpecialTokens(std::move(tokens));
}

using Encoder = std::variant<SpmEncoder, BpeEncoder>;

Encoder EncoderOf(const VocabSpec& spec, const VocabRules& rules,
                  const std::vector<std::string>& pieces) {
  if (rules.is_spm) return Encoder(std::in_place_type<SpmEncoder>, spec, rules.types, rules.unk_id);
  return Encoder(std::in_place_type<BpeEncoder>, spec, rules.types, pieces, *rules.pre);
}

}  // namespace

struct Vocab::Impl {
  explicit Impl(VocabSpec spec)
      : rules(ResolveRules(spec)),
        pieces(PiecesOf(spec, rules)),
        user_defined(TokensIn(spec, rules, /*with_control=*/false)),
        all_special(TokensIn(spec, rules, /*with_control=*/true)),
        encoder(EncoderOf(spec, rules, pieces)),
        model(std::move(spec.model)),
        chat_template(std::move(spec.chat_template)) {}

  void CheckId(int32_t id) const {
    if (id >= 0 && static_cast<size_t>(id) < pieces.size()) return;
    TVM_FFI_THROW(IndexError) << "token id " << id << " is out of range, expected 0 to "
                              << pieces.size() - 1;
  }

  void EncodeText(std::string_view text, bool after_special, std::vector<int32_t>* ids) const {
    if (const auto* spm = std::get_if<SpmEncoder>(&encoder)) {
      spm->Encode(text, rules.add_space_prefix && after_special, ids);
    } else {
      std::get<BpeEncoder>(encoder).Encode(text, ids);
    }
  }

  SpecialTokens::Match FindSpecial(std::string_view text, size_t from, bool parse_special,
                                   std::span<const int64_t> plain_at) const {
    if (!parse_special) return user_defined.Find(text, from);
    for (;; ++from) {
      const SpecialTokens::Match match = all_special.Find(text, from);
      const auto begin = static_cast<int64_t>(match.begin);
      if (match.length == 0 || !std::binary_search(plain_at.begin(), plain_at.end(), begin))
        return match;
      const SpecialTokens::Match user = user_defined.At(text, match.begin);
      if (user.length > 0) return user;
      from = match.begin;
    }
  }

  VocabRules rules;
  std::vector<std::string> pieces;  // the encoder points into them
  SpecialTokens user_defined;
  SpecialTokens all_special;
  Encoder encoder;
  std::string model;
  std::string chat_template;
};

Vocab::Vocab(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Vocab::~Vocab() = default;

std::shared_ptr<const Vocab> Vocab::Create(VocabSpec spec) {
  return std::shared_ptr<const Vocab>(new Vocab(std::make_unique<const Impl>(std::move(spec))));
}

std::vector<int32_t> Vocab::Tokenize(std::string_view text, bool add_special, bool parse_special,
                                     std::span<const int64_t> plain_at) const {
  if (text.size() > INT32_MAX) {
    TVM_FFI_THROW(ValueError) << "tokenize: text has " << text.size() << " bytes, expected at most "
                              << INT32_MAX;
  }
  const VocabRules& rules = impl_->rules;
  std::vector<int32_t> ids;
  const bool add_bos = add_special && rules.add_bos;
  bool ends_with_eos = false;
  if (add_bos) ids.push_back(*rules.bos_id);
  bool after_special = true;
  for (size_t pos = 0; pos < text.size();) {
    const SpecialTokens::Match match = impl_->FindSpecial(text, pos, parse_special, plain_at);
    const size_t end = match.length > 0 ? match.begin : text.size();
    if (end > pos) impl_->EncodeText(text.substr(pos, end - pos), after_special, &ids);
    after_special = match.length > 0;
    ends_with_eos = after_special && match.id == rules.eos_id;
    const bool second_bos = add_bos && match.length > 0 && end == 0 && match.id == rules.bos_id;
    if (after_special && !second_bos) ids.push_back(match.id);
    pos = end + match.length;
  }
  if (add_special && rules.add_eos && !ends_with_eos) ids.push_back(*rules.eos_id);
  return ids;
}

std::string Vocab::Detokenize(std::span<const int32_t> ids, bool skip_special) const {
  std::string text;
  Detokenizer detokenizer(*this, skip_special);
  for (const int32_t id : ids) text.append(detokenizer.Next(id));
  return text;
}

std::string_view Vocab::Piece(int32_t id) const {
  impl_->CheckId(id);
  return impl_->pieces[id];
}

TokenType Vocab::Type(int32_t id) const {
  impl_->CheckId(id);
  return impl_->rules.types[id];
}

bool Vocab::IsEog(int32_t id) const {
  impl_->CheckId(id);
  return impl_->rules.eog[id];
}

int32_t Vocab::size() const { return static_cast<int32_t>(impl_->pieces.size()); }
std::optional<int32_t> Vocab::bos_id() const { return impl_->rules.bos_id; }
std::optional<int32_t> Vocab::eos_id() const { return impl_->rules.eos_id; }
bool Vocab::add_bos() const { return impl_->rules.add_bos; }
bool Vocab::add_space_prefix() const { return impl_->rules.add_space_prefix; }
std::string_view Vocab::model() const { return impl_->model; }
std::string_view Vocab::chat_template() const { return impl_->chat_template; }

}  // namespace mlf
